"""What came back, as a picture: the first test clips, made by the first run of each variant and by the base model.

    python -m recipes.remind.studies.sheet --preset tiny      # after claims --claim evolution; OUT/recovery.png

The test bank's clips are interrupted in turn, so the first five show each kind once. None is chosen. All frames up to
the end of an interruption are given; what the rows show after it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from memkit.errors import InputError
from memkit.report import contact_sheet
from memkit.video import read_video
from recipes.common.commands import run_command
from recipes.remind.evaluate import open_clips
from recipes.remind.presets import Command, parse
from recipes.remind.studies.claims import Claim, run_of, variants

BASE, TWIN = "base", "the twin"


@dataclass(frozen=True)
class Sheet(Command):
    """The command line."""

    claim: Claim = "evolution"
    """Whose variants to show."""
    run: int = 1
    """Seed of their training."""
    clips: int = 5
    """The first so many."""


def folders(command: Sheet) -> dict[str, Path]:
    """Where the videos of each row lie."""
    config = command.config
    made = {BASE: config.out / "evaluation" / "recovery-base"}
    for name, changes in variants(command.claim).items():
        made[name] = run_of(config, name, changes, command.run).out / "evaluation" / "recovery"
    return made


def kept(file: Path) -> tuple[Tensor, Tensor]:
    """What was made, and its twin: the halves of a kept video. Raises `InputError` where it is not there."""
    if not file.exists():
        raise InputError(f"There is no {file}; run studies.claims first, and ask for clips that it keeps.")
    frames = read_video(file).frames
    width = frames.shape[2] // 2
    return frames[:, :, :width], frames[:, :, width:]


def sheet(command: Sheet) -> Image.Image:
    """One section a clip: its twin, then each row's."""
    where, sections = folders(command), []
    for id, record in list(open_clips(command.config).records.items())[: command.clips]:
        videos = {name: kept(folder / f"{id}.mp4") for name, folder in where.items()}
        rows = [(TWIN, videos[BASE][1]), *((name, made) for name, (made, _) in videos.items())]
        sections.append((f"{id}: {record.by}; {record.twin_caption}", rows))
    return contact_sheet(sections, columns=13, height=96)


def main(command: Sheet) -> int:
    """Write the picture; the exit code."""
    file = command.config.folder / "recovery.png"
    sheet(command).save(file)
    print(file)
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Sheet, __doc__)))
