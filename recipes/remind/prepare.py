"""Build the banks of interrupted clips and their twins, or go on where an earlier call was stopped.

    python -m recipes.remind.prepare --preset tiny
    python -m recipes.remind.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    torchrun --nproc-per-node 8 -m recipes.remind.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, clips of the interruptions world are rendered: OUT/train, and OUT/test with substances that
nothing was trained on. With it, OUT/train (or the bank named by ``--into``) holds the start of each of your videos,
behind an occluder, in darkness, looked away from, or cut out by the camera (`memkit.interruptions`); a test bank
has fog too. Poses beside a video are used (docs/poses.md).

A bank holds the latents of each interrupted clip, and of its twin under ``ID/twin``, with the cameras of the latent
frames. ``records.jsonl`` beside them says what interrupts each clip, which latent frames show no truth, and the caption
of each chunk. Several processes share the work; see `memkit.banks.fill_together`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from memkit.backbones import WanCodec
from memkit.banks import MemoryBank, read_captions
from memkit.cameras import latent_cameras
from memkit.video import to_model
from recipes.common.backbones import load_codec
from recipes.common.commands import PREPARES, report_done, run_command
from recipes.common.own_videos import OwnVideos, fill_bank
from recipes.remind.clips import FileClip, WorldClip
from recipes.remind.presets import Command, Config, parse
from recipes.remind.records import RECORDS, Clip, read_records, twin_of, write_records

DTYPE = torch.float16
"""Of the stored latents: Wan's lie well inside its range, and it keeps three bits more than bf16."""


@dataclass(frozen=True)
class Prepare(OwnVideos, Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = PREPARES
    into: Literal["train", "test"] = "train"
    """Which bank your videos go to."""


def main(command: Prepare) -> int:
    """Build what is missing; the exit code."""
    config = command.config
    own, codec = command.source(config.model), load_codec(config)
    if own is not None:
        return _ingest(command, *own, codec)
    for split, count in (("train", config.train_clips), ("test", config.test_clips)):
        clips = [WorldClip(f"{split}-{i:05d}", config) for i in range(count)]
        fill_clips(config.folder / split, config, codec, {clip.id: clip for clip in clips})
    report_done(config.folder, "python -m recipes.remind.train with the same --preset and flags")
    return 0


def fill_clips(path: Path, config: Config, codec: WanCodec, clips: Mapping[str, Clip]) -> dict[str, str] | None:
    """Add the clips that the bank ``path`` lacks; see `recipes.common.own_videos.fill_bank`."""
    made_of = "the interruptions world" if any(isinstance(clip, WorldClip) for clip in clips.values()) else "videos"
    info = {"recipe": "remind", "model": config.model, **asdict(config.form), "chunk": config.chunk, "of": made_of}
    # the twin is added last: where it is, the clip is whole
    bad = fill_bank(
        path,
        info,
        clips,
        lambda bank, id: twin_of(id) in bank,
        lambda bank, clip: add_clip(bank, clip, codec),
    )
    if bad is not None:
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


def _ingest(command: Prepare, folder: Path, captions: Path, codec: WanCodec) -> int:
    rows, broken = read_captions(captions, folder)
    clips = {row.id: FileClip(row, command.config, held_out=command.into == "test") for row in rows}
    path = command.config.folder / command.into
    bad = fill_clips(path, command.config, codec, clips)
    return command.report(path, len(clips), broken, bad)


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
