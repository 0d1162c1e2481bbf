"""Long videos in chunks with one camera per frame, rendered from a world or read from files.

A chunk begins with the last frame of the previous one, as in a rollout; see `memkit.rollout.long_videos`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from memkit.backbones import VideoFormat
from memkit.banks import posed_chunks
from memkit.banks.captions import Row
from memkit.cameras import poses_beside
from memkit.errors import InputError
from memkit.rollout.long_videos import Chunk
from memkit.worlds.gallery_tours import GalleryTour
from memkit.worlds.tours import RoomTour
from recipes.memlearner.presets import Suite


class LongVideo(Protocol):
    """A video in chunks."""

    @property
    def name(self) -> str: ...
    def chunks(self) -> Iterator[Chunk]: ...  # all of them, in order


TOURS: dict[Suite, type[RoomTour] | type[GalleryTour]] = {"rooms": RoomTour, "gallery": GalleryTour}


@dataclass(frozen=True)
class WorldVideo:
    """A tour of a room or a gallery; the tour is the same with people (or the figure) and without."""

    suite: Suite
    name: str
    """Name of the room or gallery, such as "train-00012" or "test-00003-dynamic"."""
    count: int
    """Number of chunks."""
    form: VideoFormat

    def __post_init__(self) -> None:
        if self.form.height != self.form.width:
            raise InputError(f"Worlds are rendered square, the model generates {self.form.width}×{self.form.height}.")

    def chunks(self) -> Iterator[Chunk]:
        """Render the chunks. The captions describe the camera motion, not the place, which memory has to show."""
        form = self.form
        tour = TOURS[self.suite](self.name, self.count, (form.num_frames - 1) / form.fps)
        for index in range(self.count):
            clip = tour.part(index)
            video = clip.video(form.num_frames, form.fps, form.height)
            yield Chunk(video, clip.motion, clip.cameras(form.num_frames, form.fps))


@dataclass(frozen=True)
class FileVideo:
    """All complete chunks of a video file with its poses beside it, at the frame rate and size of the model."""

    row: Row
    form: VideoFormat
    posed: bool = True
    """Whether to read poses."""

    @property
    def name(self) -> str:
        return self.row.id

    def chunks(self) -> Iterator[Chunk]:
        """See `memkit.banks.posed_chunks`. Raises `InputError` if the poses are missing."""
        file = self.row.file
        poses = poses_beside(file) if self.posed else None
        if poses is None and self.posed:
            raise InputError(
                f"{file} has no poses beside it; write {file.stem}.npz or {file.stem}.txt (docs/poses.md), or make a "
                "bank of videos without: --annotation none."
            )
        for frames, cameras in posed_chunks(file, self.form, poses):
            yield Chunk(frames, self.row.caption, cameras)
