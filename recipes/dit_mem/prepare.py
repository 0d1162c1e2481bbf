"""Build the memory banks. A command that was stopped continues where it was.

    python -m recipes.dit_mem.prepare --preset tiny
    python -m recipes.dit_mem.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    torchrun --nproc-per-node 8 -m recipes.dit_mem.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, clips of the laws world are rendered: OUT/bank to train on, and OUT/bank-test with unseen planets,
materials and substances. With ``--videos``, OUT/bank holds your clips.

Several processes, on one machine or on many that share OUT, split the work; see `memkit.banks.fill_together`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from memkit.backbones import WanBackbone, WanCodec
from memkit.banks import build_bank_together, fill_together, parts_of
from memkit.banks.build import bank_for
from memkit.display import counted
from memkit.errors import BankError, InputError
from memkit.training import PREPARES, OwnVideos, load_codec, report_done, run_command
from memkit.video import to_model
from memkit.worlds.event import Event
from memkit.worlds.law_clips import clip_ids, law_of
from memkit.worlds.solids import Drop, Throw
from recipes.dit_mem.presets import Command, Config, parse
from recipes.dit_mem.presets import command as next_command

COMMIT_EVERY = 32  # clips


@dataclass(frozen=True)
class Prepare(OwnVideos, Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = PREPARES


def main(command: Prepare) -> int:
    """Build what is missing. Returns the exit code."""
    config = command.config
    own, codec = command.source(config.model, config.train_clips + config.test_clips), load_codec(config)
    if own is not None:
        return _ingest(command, *own, codec)
    render_bank(config.bank, ids_of(config, "train", config.train_clips), config.model, codec)
    render_bank(config.test_bank, ids_of(config, "test", config.test_clips), config.model, codec)
    report_done(config.folder, next_command("train", config))
    return 0


def ids_of(config: Config, part: str, count: int) -> list[str]:
    """The ids of ``count`` clips of the kinds that ``config.laws`` asks for."""
    if config.laws is None:
        return clip_ids(part, count, config.seed)
    ids, number = [], count
    while len(ids) < count:  # about a third of all clips
        number *= 2
        ids = [id for id in clip_ids(part, number, config.seed) if is_plain_fall(law_of(id))]
    return ids[:count]


def is_plain_fall(law: Event) -> bool:
    """Whether a body that 64×64 pixels show well is dropped or thrown."""
    return isinstance(law, Drop | Throw) and law.size != "small"


def render_bank(path: Path, ids: list[str], model: str, encoder: WanCodec | WanBackbone) -> None:
    """Add the clips of the laws world that are missing in the bank ``path``; each has its own source."""
    form = encoder.video_format
    if form.height != form.width:
        raise InputError(f"The laws world renders square clips, but {model} generates {form.width}×{form.height}.")
    info: dict[str, Any] = {"world": "laws", "model": model, **asdict(form)}

    def fill(into: Path, some: Sequence[str]) -> None:
        with bank_for(into, info) as bank:
            parts = parts_of(path) if into == path else []
            if strange := sorted({id for known in (bank, *parts) for id in known.ids} - set(ids)):
                raise BankError(f"{path} has clips of another seed or a larger set ({strange[0]}); give another --out.")
            lack = [id for id in some if id not in bank]
            for done, id in enumerate(tqdm(lack, desc=path.name, unit="clip", disable=into != path or not lack), 1):
                law = law_of(id)
                video = law.video(form.num_frames, form.fps, form.height)
                bank.add(id, encoder.encode_video(to_model(video))[0].cpu(), law.caption, source=id)
                if done % COMMIT_EVERY == 0:
                    bank.flush()

    fill_together(path, ids, fill)


def _ingest(command: Prepare, videos: Path, captions: Path, encoder: WanCodec) -> int:
    config = command.config
    report = build_bank_together(videos, captions, config.bank, encoder, config.model)
    if report is None:
        return 0
    added, present = len(report.added), len(report.present)
    print(f"{config.bank}: {counted(added, 'clip')} added, {present} were there, {len(report.bad)} bad")
    return command.report(config.bank, added + present, report.bad, {})


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
