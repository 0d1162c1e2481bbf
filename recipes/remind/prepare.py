"""Make the banks of interrupted clips and their twins, or go on where a run was stopped.

    python -m recipes.remind.prepare --preset tiny
    python -m recipes.remind.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    torchrun --nproc-per-node 8 -m recipes.remind.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, clips of the interruptions world are rendered: OUT/train, and OUT/test with substances that
nothing was trained on. With it, OUT/train (or the bank named by ``--into``) holds the start of each of your videos,
behind an occluder, in darkness, looked away from, or cut out by the camera (`memkit.interrupt`); a test bank has fog
too. Poses beside a video are used (docs/poses.md).

A bank holds the latents of each interrupted clip, and of its twin under ``ID/twin``, with the cameras of the latent
frames. ``records.jsonl`` beside them says what interrupts each clip, which latent frames show no truth, and the caption
of each chunk. Several processes share the work; see `recipes.bank_parts`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from memkit.backbones import WanCodec
from memkit.bank import MemoryBank
from memkit.errors import BankError, InputError, MemkitError
from memkit.ingest import bank_for, read_captions
from memkit.pose_files import latent_cameras
from memkit.video import to_model
from recipes.backbones import load_codec
from recipes.bank_parts import fill_together
from recipes.commands import run_command
from recipes.remind.clips import Clip, FileClip, Record, WorldClip, twin_of
from recipes.remind.presets import Command, Config, parse

DTYPE = torch.float16
"""Of the stored latents: Wan's lie well inside its range, and it keeps three bits more than bf16."""
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Prepare(Command):
    """The command line."""

    videos: Path | None = None
    """Folder of your own videos, instead of the interruptions world."""
    captions: Path | None = None
    """Their captions: CSV with the columns video and caption, optionally id and source."""
    into: Literal["train", "test"] = "train"
    """Which bank your videos go to."""
    skip_bad: bool = False
    """Exit with 0 although some videos could not be used; they are listed either way."""


def main(command: Prepare) -> int:
    """Build what is missing; the exit code."""
    config = command.config
    if (command.videos is None) != (command.captions is None):
        raise InputError("--videos and --captions go together.")
    if command.videos is None and config.model != "tiny" and not Path(config.model).is_dir():
        raise InputError(f"The world is too small for {config.model}; give your videos: --videos DIR --captions CSV.")
    codec = load_codec(config.model, config.device, config.threads)
    if command.videos is not None and command.captions is not None:
        return _ingest(command, command.videos, command.captions, codec)
    for split, count in (("train", config.train_clips), ("test", config.test_clips)):
        clips = [WorldClip(f"{split}-{i:05d}", config) for i in range(count)]
        fill_bank(config.folder / split, config, codec, {clip.id: clip for clip in clips})
    return 0


def fill_bank(path: Path, config: Config, codec: WanCodec, clips: Mapping[str, Clip]) -> dict[str, str]:
    """Add the clips that the bank ``path`` lacks; ids of those that cannot be used, and why."""
    made_of = "the interruptions world" if any(isinstance(clip, WorldClip) for clip in clips.values()) else "videos"
    info = {"recipe": "remind", "model": config.model, **asdict(config.form), "chunk": config.chunk, "of": made_of}
    bad: dict[str, str] = {}

    def fill(into: Path, some: Sequence[str]) -> bool:
        lack = [id for id in some if twin_of(id) not in bank_for(into, info)]
        with bank_for(into, info) as bank:
            for id in tqdm(lack, desc=path.name, unit="clip", disable=into != path or not lack):
                try:
                    add_clip(bank, clips[id], codec)
                except BankError:
                    raise
                except MemkitError as error:
                    bad[id] = str(error)
                bank.flush()
        return True

    # the twin is added last: where it is, the clip is whole
    if fill_together(path, list(clips), fill) is not None:
        there = set(MemoryBank.open(path).ids)
        known = {record.id: record for record in read_records(path)} if (path / RECORDS).exists() else {}
        known |= {id: clip.record for id, clip in clips.items() if twin_of(id) in there}
        write_records(path, list(known.values()))
    return bad


def add_clip(bank: MemoryBank, clip: Clip, codec: WanCodec) -> None:
    """Add the interrupted clip and its twin."""
    record, shown = clip.record, clip.both()
    for id, (frames, cameras), caption in zip(
        (clip.id, twin_of(clip.id)),
        shown,
        (record.captions[len(record.captions) // 2], record.twin_caption),
        strict=True,
    ):
        if id not in bank:
            latents = codec.encode_video(to_model(frames))[0].to(DTYPE).cpu()
            at = latent_cameras(cameras, codec.vae.config.scale_factor_temporal)
            bank.add(id, latents, caption, clip.source, at)


def write_records(bank: Path, records: Sequence[Record]) -> None:
    """Beside the bank's latents; the file is whole or as it was."""
    partial = bank / f".{RECORDS}.partial"
    partial.write_text("".join(json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in records))
    os.replace(partial, bank / RECORDS)


def read_records(bank: Path) -> list[Record]:
    """What `write_records` wrote. Raises `InputError` naming the line for anything else."""
    file = bank / RECORDS
    if not file.exists():
        raise InputError(f"There is no {file}; run recipes.remind.prepare, which writes it when the bank is full.")
    records = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            start, stop = (int(x) for x in row.pop("hidden"))
            records.append(Record(**{**row, "captions": tuple(row["captions"])}, hidden=(start, stop)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file}, line {number} is no record ({error!r}); run recipes.remind.prepare.") from error
    return records


def records_hash(bank: Path) -> str:
    """SHA-256 of the records."""
    return hashlib.sha256((bank / RECORDS).read_bytes()).hexdigest()


def _ingest(command: Prepare, folder: Path, captions: Path, codec: WanCodec) -> int:
    rows, broken = read_captions(captions, folder)
    clips = {row.id: FileClip(row, command.config, held_out=command.into == "test") for row in rows}
    path = command.config.folder / command.into
    bad = {item.name: item.reason for item in broken} | fill_bank(path, command.config, codec, clips)
    for name, reason in bad.items():
        print(f"{name}: {reason}", file=sys.stderr)
    print(f"{path}: {len(clips)} videos named, {len(bad)} bad")
    return 1 if bad and not command.skip_bad else 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
