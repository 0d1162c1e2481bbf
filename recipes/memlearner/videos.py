"""Long videos with a camera a frame, rendered from the rooms world or read from files, cut into chunks.

Chunk i of a video begins with the last frame of chunk i − 1, as a rollout makes them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.banks.captions import Row
from memkit.banks.posed_clips import check_count, cropped, frames_at
from memkit.cameras import Cameras, poses_beside, read_poses
from memkit.errors import InputError
from memkit.video import read_frames, resize
from memkit.worlds.constants import Split
from memkit.worlds.rooms import Room, RoomClip


class Chunk(NamedTuple):
    """Frames of a chunk, its caption, and its cameras, one a frame, where they are known."""

    frames: UInt8[Tensor, "frames height width 3"]
    caption: str
    cameras: Cameras | None


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
            yield Chunk(video, clip.motion, clip.cameras(form.num_frames, form.fps))


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
    posed: bool = True
    """Without, no poses are looked for."""

    @property
    def name(self) -> str:
        return self.row.id

    def chunks(self) -> Iterator[Chunk]:
        """Raises `InputError` or `MediaError` naming the file: no poses, not one a frame, or under one chunk long."""
        file, form = self.row.file, self.form
        poses = self._poses()
        video = read_frames(file)
        cameras = None
        if poses is not None:
            cameras = read_poses(poses)
            check_count(poses, cameras, file, len(video.frames))
        # the frame nearest in time to k / fps; the last chunk that is whole ends it
        stride, length = form.num_frames - 1, (video.times[-1] - video.times[0]).item() * form.fps
        count = int(length + 1e-6) // stride
        if not count:
            raise InputError(f"{file} has {length + 1:.0f} frames at {form.fps} a second, a chunk {form.num_frames}.")
        index = frames_at(count * stride + 1, form.fps, video.times)
        for i in range(count):
            at = index[i * stride : i * stride + form.num_frames]
            frames, seen = resize(video.frames[at], form.height, form.width), None
            if cameras is not None:
                intrinsics = cropped(cameras.intrinsics[at], video.frames.shape[1:3], (form.height, form.width))
                seen = Cameras(cameras.c2w[at], intrinsics)
            yield Chunk(frames, self.row.caption, seen)

    def _poses(self) -> Path | None:
        """Their file, where there are to be some."""
        file = self.row.file
        poses = poses_beside(file) if self.posed else None
        if poses is None and self.posed:
            raise InputError(
                f"{file} has no poses beside it; write {file.stem}.npz or {file.stem}.txt (docs/poses.md), or make a "
                "bank of videos without: --annotation none."
            )
        return poses


def chunk_id(name: str, index: int) -> str:
    """Of a chunk's latents; those of its frames encoded alone are under `frames_id`."""
    return f"{name}/chunk-{index:03d}"


def frames_id(name: str, index: int) -> str:
    """Of the frames of a chunk that stand at latent frames, each encoded alone."""
    return f"{name}/chunk-{index:03d}/frames"


def name_of(id: str) -> str:
    """The video of either."""
    return id.rsplit("/chunk-", 1)[0]
