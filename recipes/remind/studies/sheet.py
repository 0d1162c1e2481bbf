"""Write a picture of the first test clips, as recovered by one run of each variant and by the base model.

    python -m recipes.remind.studies.sheet --preset tiny      # after studies.claims --claim evolution

The kinds of interruptions alternate, so that the first five clips show each kind once. The frames up to the end of an
interruption are conditioning frames, those after it are generated. The command writes OUT/recovery.png.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from memkit.errors import InputError
from memkit.evaluation import run_config
from memkit.files.names import file_names
from memkit.report import contact_sheet
from memkit.training import report_done, run_command
from memkit.video import read_video
from recipes.remind.evaluate import open_clips
from recipes.remind.presets import Command, parse
from recipes.remind.studies.claims import Claim, variants


@dataclass(frozen=True)
class Sheet(Command):
    """The command line."""

    claim: Claim = "evolution"
    """Claim whose variants to show."""
    run: int = 1
    """Seed of the training runs to show."""
    clips: int = 5
    """Number of clips, the first of the bank."""


def kept(file: Path) -> tuple[Tensor, Tensor]:
    """The generated video and its twin: the halves of a kept video. Raises `InputError` if it does not exist."""
    if not file.exists():
        raise InputError(f"There is no {file}; run studies.claims first, and ask for clips that it keeps.")
    frames = read_video(file).frames
    width = frames.shape[2] // 2
    return frames[:, :, :width], frames[:, :, width:]


def main(command: Sheet) -> int:
    """Write the picture. Returns the exit code."""
    config, sections = command.config, []
    folders = {"base": config.out / "evaluation" / "recovery-base"}
    for name, changes in variants(command.claim).items():
        folders[name] = run_config(config, name, changes, command.run).out / "evaluation" / "recovery"
    records = open_clips(config).records
    files = file_names(records)
    for id, record in list(records.items())[: command.clips]:
        videos = {name: kept(folder / f"{files[id]}.mp4") for name, folder in folders.items()}
        rows = [("the twin", videos["base"][1]), *((name, generated) for name, (generated, _) in videos.items())]
        sections.append((f"{id}: {record.by}; {record.twin_caption}", rows))
    file = config.folder / "recovery.png"
    contact_sheet(sections, columns=13, height=96).save(file)
    report_done(file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Sheet, __doc__)))
