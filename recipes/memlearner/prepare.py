"""Make the banks of chunks, or go on where a run was stopped.

    python -m recipes.memlearner.prepare --preset tiny
    python -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV
    python -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV --annotation estimated \
        --out runs/walks
    torchrun --nproc-per-node 8 -m recipes.memlearner.prepare --preset wan2.1-1.3b --videos DIR --captions CSV

Without ``--videos``, tours of rooms are rendered: OUT/train, and OUT/test of rooms that nothing was trained on. With
it, OUT/train (or the bank named by ``--into``) holds your videos, whose poses lie beside them; see docs/poses.md. A
bank is of one kind of poses: exact, estimated, or none at all. Training takes several banks (``--more-banks``).

A bank holds, of each chunk, its latents and, under an id of their own, those of its frames encoded alone, which rules
like CaM's choose among; each with the cameras of its latent frames. Several processes share the work; see
`recipes.bank_parts`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
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
from recipes.memlearner.presets import Annotation, Command, Config, parse
from recipes.memlearner.videos import Chunk, FileVideo, LongVideo, RoomVideo, chunk_id, frames_id, name_of, room_names

DTYPE = torch.float16
"""Of the stored latents: Wan's lie well inside its range, and it keeps three bits more than bf16."""


@dataclass(frozen=True)
class Prepare(Command):
    """The command line."""

    videos: Path | None = None
    """Folder of your own videos, with poses beside them, instead of the rooms world."""
    captions: Path | None = None
    """Their captions: CSV with the columns video and caption, optionally id."""
    annotation: Annotation = "exact"
    """How the poses of your videos are known; with "none" no pose files are read."""
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
        raise InputError(f"Rooms are too small for {config.model}; give your videos: --videos DIR --captions CSV.")
    codec = load_codec(config.model, config.device, config.threads)
    if command.videos is not None and command.captions is not None:
        return _ingest(command, command.videos, command.captions, codec)
    for split, count in (("train", config.train_videos), ("test", config.test_videos)):
        names = room_names(split, count, both=split == "test")  # type: ignore[arg-type]  # the two are splits
        videos = [RoomVideo(name, config.video_chunks, codec.video_format) for name in names]
        fill_bank(config.folder / split, config, codec, {video.name: video for video in videos}, config.video_chunks)
    return 0


def fill_bank(
    path: Path,
    config: Config,
    codec: WanCodec,
    videos: dict[str, LongVideo],
    count: int | None = None,
    annotation: Annotation = "exact",
) -> dict[str, str]:
    """Add the chunks that the bank ``path`` lacks; names of videos that cannot be used, and why.

    With ``count`` chunks in every video those that are whole in the bank are not read again.
    """
    info = {"recipe": "memlearner", "model": config.model, "poses": annotation, **asdict(codec.video_format)}
    bad: dict[str, str] = {}

    def fill(into: Path, some: Sequence[str]) -> None:
        bank = bank_for(into, info)
        lack = [name_of(id) for id in some if count is None or id not in bank]
        with bank:
            for name in tqdm(lack, desc=path.name, unit="video", disable=into != path or not lack):
                try:
                    add_video(bank, videos[name], codec)
                except BankError:
                    raise
                except MemkitError as error:
                    bad[name] = str(error)
                bank.flush()

    # a video is one item of work: by what is added of it last, or first where only its file tells its length
    fill_together(path, [frames_id(name, (count or 1) - 1) for name in videos], fill)
    return bad


def add_video(bank: MemoryBank, video: LongVideo, codec: WanCodec) -> None:
    """Add the chunks of a video that a bank lacks, in order."""
    for index, chunk in enumerate(video.chunks()):
        latents, frames = chunk_id(video.name, index), frames_id(video.name, index)
        cameras = chunk.cameras and latent_cameras(chunk.cameras, codec.vae.config.scale_factor_temporal)
        if latents not in bank:
            made = codec.encode_video(to_model(chunk.frames))[0]
            bank.add(latents, made.to(DTYPE).cpu(), chunk.caption, video.name, cameras)
        if frames not in bank:
            bank.add(frames, encode_alone(codec, chunk).to(DTYPE).cpu(), chunk.caption, video.name, cameras)


def encode_alone(codec: WanCodec, chunk: Chunk) -> Tensor:
    """Latents [C,F,H,W] of the frames that stand at latent frames, each as an image."""
    frames = chunk.frames[:: codec.vae.config.scale_factor_temporal]
    images = to_model(frames)[0].movedim(1, 0)[:, :, None]
    return torch.cat([codec.encode_video(image[None])[0] for image in images], dim=1)


def _ingest(command: Prepare, folder: Path, captions: Path, codec: WanCodec) -> int:
    rows, broken = read_captions(captions, folder)
    videos: dict[str, Any] = {row.id: FileVideo(row, codec.video_format, command.annotation != "none") for row in rows}
    bad = {item.name: item.reason for item in broken}
    bank = command.config.folder / command.into
    bad |= fill_bank(bank, command.config, codec, videos, annotation=command.annotation)
    for name, reason in bad.items():
        print(f"{name}: {reason}", file=sys.stderr)
    print(f"{bank}: {len(videos)} videos named, {len(bad)} bad")
    return 1 if bad and not command.skip_bad else 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Prepare, __doc__)))
