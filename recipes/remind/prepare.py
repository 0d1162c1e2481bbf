"""Build the banks of interrupted clips and their twins. A command that was stopped continues where it was.

    python -m recipes.remind.prepare --preset tiny
    python -m recipes.remind.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    torchrun --nproc-per-node 8 -m recipes.remind.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, clips of the interruptions world are rendered: OUT/train, and OUT/test with unseen substances.
With ``--videos``, OUT/train (see ``--into``) holds the start of each of your videos, interrupted by an occluder, by
darkness, or by a camera that turns away or stops recording (`memkit.interruptions`); in a test bank by fog too. Poses
beside a video are used (docs/poses.md).

A bank holds the latents of each interrupted clip, and of its twin under ``ID/twin``, with one camera per latent frame.
``records.jsonl`` in its folder holds the kind of each interruption, the latent frames that it hides, and one caption
per chunk. Several processes split the work; see `memkit.banks.fill_together`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from memkit.backbones import WanCodec
from memkit.banks import MemoryBank, fill_bank, read_captions
from memkit.cameras import latent_cameras
from memkit.errors import InputError
from memkit.training import PREPARES, OwnVideos, load_codec, report_done, run_command
from memkit.video import to_model
from recipes.remind.clips import FileClip, WorldClip
from recipes.remind.presets import Command, Config, parse
from recipes.remind.presets import command as next_command
from recipes.remind.records import RECORDS, Clip, read_records, twin_of, write_records

DTYPE = torch.float16
"""Dtype of the stored latents: those of Wan are well inside its range, and it is more precise than bf16."""


@dataclass(frozen=True)
class Prepare(OwnVideos, Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = PREPARES
    into: Literal["train", "test"] = "train"
    """The bank that your videos are added to."""


def main(command: Prepare) -> int:
    """Build what is missing. Returns the exit code."""
    config = command.config
    own, codec = command.source(config.model, config.train_clips + config.test_clips), load_codec(config)
    if own is not None:
        return _ingest(command, *own, codec)
    codes = []
    for split, count in (("train", config.train_clips), ("test", config.test_clips)):
        clips = [WorldClip(f"{split}-{i:05d}", config) for i in range(count)]
        bad = fill_clips(config.folder / split, config, codec, {clip.id: clip for clip in clips})
        codes.append(command.report(config.folder / split, count, [], bad) if count else 0)
    report_done(config.folder, next_command("train", config))
    return max(codes)


def fill_clips(path: Path, config: Config, codec: WanCodec, clips: Mapping[str, Clip]) -> dict[str, str] | None:
    """Add the clips that are missing in the bank ``path``; see `memkit.banks.fill_bank`."""
    source = "the interruptions world" if any(isinstance(clip, WorldClip) for clip in clips.values()) else "videos"
    info = {"recipe": "remind", "model": config.model, **asdict(config.form), "chunk": config.chunk, "of": source}
    if config.world_captions != "process":  # what banks without this entry have
        info["captions"] = config.world_captions
    # the twin is added last: if it is there, the clip is complete
    bad = fill_bank(
        path, info, clips, lambda bank, id: twin_of(id) in bank, lambda bank, clip: add_clip(bank, clip, codec)
    )
    if bad is not None:
        stored = set(MemoryBank.open(path).ids)
        records = {record.id: record for record in read_records(path)} if (path / RECORDS).exists() else {}
        records |= {id: clip.record for id, clip in clips.items() if twin_of(id) in stored}
        write_records(path, list(records.values()))
    return bad


def add_clip(bank: MemoryBank, clip: Clip, codec: WanCodec) -> None:
    """Add the interrupted clip and its twin."""
    record, videos = clip.record, clip.videos()
    for id, (frames, cameras), caption in zip(
        (clip.id, twin_of(clip.id)),
        videos,
        (record.captions[len(record.captions) // 2], record.twin_caption),
        strict=True,
    ):
        if id not in bank:
            latents = codec.encode_video(to_model(frames))[0].to(DTYPE).cpu()
            posed = latent_cameras(cameras, codec.vae.config.scale_factor_temporal)
            bank.add(id, latents, caption, clip.source, posed)


def _ingest(command: Prepare, folder: Path, captions: Path, codec: WanCodec) -> int:
    if command.config.world_captions != "process":
        raise InputError("--world-captions is about rendered clips; those of --videos have the captions of --captions.")
    rows, broken = read_captions(captions, folder)
    clips = {row.id: FileClip(row, command.config, held_out=command.into == "test") for row in rows}
    path = command.config.folder / command.into
    bad = fill_clips(path, command.config, codec, clips)
    return command.report(path, len(clips), broken, bad)


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
