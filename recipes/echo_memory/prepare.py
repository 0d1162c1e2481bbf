"""Build the bank of chunks. A command that was stopped continues where it was.

    python -m recipes.echo_memory.prepare --preset tiny
    python -m recipes.echo_memory.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, tours of rooms are rendered; with it, your videos with the poses beside them (docs/poses.md). The
bank OUT/train holds the latents of each chunk and, under an id of their own, those of each of its frames encoded alone,
both with cameras.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from memkit.backbones import WanCodec
from memkit.banks import MemoryBank, fill_bank, read_captions
from memkit.cameras import latent_cameras
from memkit.errors import InputError
from memkit.rollout.long_videos import chunk_id, frames_id, name_of
from memkit.training import PREPARES, OwnVideos, load_codec, report_done, run_command
from memkit.video import to_model
from memkit.worlds.tours import room_names
from recipes.echo_memory.presets import Command, parse
from recipes.echo_memory.presets import command as next_command
from recipes.memlearner.videos import FileVideo, LongVideo, WorldVideo


@dataclass(frozen=True)
class Prepare(OwnVideos, Command):
    """The command line."""

    shows: ClassVar[tuple[type, ...]] = PREPARES


def main(command: Prepare) -> int:
    """Build what is missing. Returns the exit code."""
    config = command.config
    own, codec = command.source(config.model, config.train_videos), load_codec(config)
    broken, videos = [], []
    if own is None:
        names = room_names("train", config.train_videos)
        videos = [WorldVideo("rooms", name, config.video_chunks, codec.video_format) for name in names]
    else:
        rows, broken = read_captions(own[1], own[0])
        videos = [FileVideo(row, codec.video_format) for row in rows]
    path = config.folder / "train"
    info = {"recipe": "echo_memory", "model": config.model, **asdict(codec.video_format)}
    last = config.video_chunks if own is None else 1
    bad = fill_bank(
        path,
        info,
        {frames_id(video.name, last - 1): video for video in videos},
        lambda bank, id: own is None and id in bank,
        lambda bank, video: add_video(bank, video, codec),
    )
    bad = None if bad is None else {name_of(id): reason for id, reason in bad.items()}
    code = command.report(path, len(videos), broken, bad)
    report_done(config.folder, next_command("train", config))
    return code


def add_video(bank: MemoryBank, video: LongVideo, codec: WanCodec) -> None:
    """Add the chunks of a video that a bank lacks, in order."""
    stride = codec.vae.config.scale_factor_temporal
    for index, chunk in enumerate(video.chunks()):
        if chunk.cameras is None:
            raise InputError(f"{video.name} has no poses, which the camera actions need.")
        if (id := chunk_id(video.name, index)) not in bank:
            latents = codec.encode_video(to_model(chunk.frames))[0]
            bank.add(id, latents.half().cpu(), chunk.caption, video.name, latent_cameras(chunk.cameras, stride))
        if (id := frames_id(video.name, index)) not in bank:
            images = to_model(chunk.frames)[0].movedim(1, 0)[:, None, :, None].unbind(0)
            alone = torch.cat([codec.encode_video(image)[0] for image in images], dim=1)
            bank.add(id, alone.half().cpu(), chunk.caption, video.name, chunk.cameras)


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
