"""Long videos with a camera a frame, rendered from the rooms world or read from files, cut into chunks.

Chunk i of a video begins with the last frame of chunk i − 1, as a rollout makes them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones.presets import VideoFormat
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.ingest import Row
from memkit.pose_files import poses_beside, read_poses
from memkit.video import read_video, resize
from memkit.worlds.constants import Split
from memkit.worlds.rooms import Room, RoomClip


class Chunk(NamedTuple):
    """Frames of a chunk, its caption, and its cameras, one a frame."""

    frames: UInt8[Tensor, "frames height width 3"]
    caption: str
    cameras: Cameras


class LongVideo(Protocol):
    """What chunks are cut from."""

    @property
    def name(self) -> str: ...
    def chunks(self) -> Iterator[Chunk]:
        """All of them, in order."""
        ...


@dataclass(frozen=True)
class RoomVideo:
    """A tour of a room of the rooms world; with people or without, it is the same tour."""

    name: str
    """Of the room: "train-00012", "test-00003-dynamic"."""
    count: int
    """Chunks."""
    form: VideoFormat

    def __post_init__(self) -> None:
        if self.form.height != self.form.width:
            raise InputError(f"Rooms are rendered square, the model makes {self.form.width}×{self.form.height}.")

    def clip(self, index: int) -> RoomClip:
        """Of one chunk."""
        room = Room.named(self.name)
        seconds = (self.form.num_frames - 1) / self.form.fps
        path = room.tour(random.Random(f"{self.name.removesuffix('-dynamic')}/tour"), self.count * seconds)
        return RoomClip(room, path, index * seconds, seconds)

    def chunks(self) -> Iterator[Chunk]:
        """Captions tell what the camera does, and nothing of the room: that is for memory to know."""
        form = self.form
        for index in range(self.count):
            clip = self.clip(index)
            video = clip.video(form.num_frames, form.fps, form.height)
            yield Chunk(video, clip.parts()[0].text, clip.cameras(form.num_frames, form.fps))


def room_names(split: Split, count: int, both: bool = False) -> list[str]:
    """Rooms without people and with people, in turn; ``both`` gives each room without and with."""
    if both:
        return [f"{split}-{i // 2:05d}" + "-dynamic" * (i % 2) for i in range(count)]
    return [f"{split}-{i:05d}" + "-dynamic" * (i % 2) for i in range(count)]


@dataclass(frozen=True)
class FileVideo:
    """A video file with its poses beside it; as many whole chunks as it has, at the model's rate and size."""

    row: Row
    form: VideoFormat

    @property
    def name(self) -> str:
        return self.row.id

    def chunks(self) -> Iterator[Chunk]:
        """Raises `InputError` or `MediaError` naming the file: no poses, not one a frame, or under one chunk long."""
        file, form = self.row.file, self.form
        poses = poses_beside(file)
        if poses is None:
            raise InputError(
                f"{file} has no poses beside it; write {file.stem}.npz or {file.stem}.txt (docs/poses.md)."
            )
        video, cameras = read_video(file), read_poses(poses)
        if len(cameras.c2w) != len(video.frames):
            raise InputError(
                f"{poses} has {len(cameras.c2w)} poses, {file} {len(video.frames)} frames; give one a frame."
            )
        # the frame nearest in time to k / fps; the last chunk that is whole ends it
        stride, length = form.num_frames - 1, (len(video.frames) - 1) / video.fps * form.fps
        count = int(length + 1e-6) // stride
        if not count:
            raise InputError(f"{file} has {length + 1:.0f} frames at {form.fps} a second, a chunk {form.num_frames}.")
        index = (
            (torch.arange(count * stride + 1) / form.fps * video.fps).round().long().clamp(max=len(video.frames) - 1)
        )
        lens = cropped(cameras.intrinsics[index], video.frames.shape[1:3], (form.height, form.width))
        for i in range(count):
            part = slice(i * stride, i * stride + form.num_frames)
            frames = resize(video.frames[index[part]], form.height, form.width)
            yield Chunk(frames, self.row.caption, Cameras(cameras.c2w[index][part], lens[part]))


def cropped(intrinsics: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Intrinsics [..., 4] over the sides of an image (height, width) that was scaled and cropped to another shape."""
    scale = max(after[0] / before[0], after[1] / before[1])
    fx, fy, cx, cy = intrinsics.unbind(-1)
    wide, high = before[1] * scale / after[1], before[0] * scale / after[0]
    return torch.stack([fx * wide, fy * high, 0.5 + (cx - 0.5) * wide, 0.5 + (cy - 0.5) * high], dim=-1)


def chunk_id(name: str, index: int) -> str:
    """Of a chunk's latents; those of its frames encoded alone are under `frames_id`."""
    return f"{name}/chunk-{index:03d}"


def frames_id(name: str, index: int) -> str:
    """Of the frames of a chunk that stand at latent frames, each encoded alone."""
    return f"{name}/chunk-{index:03d}/frames"


def name_of(id: str) -> str:
    """The video of either."""
    return id.rsplit("/chunk-", 1)[0]
