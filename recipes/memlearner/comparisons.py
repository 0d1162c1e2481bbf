"""What is compared: clips of unseen rooms, and the scores of what was made of them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.cameras import Cameras
from memkit.metrics import mean_psnr, psnr, revisit_pairs
from memkit.worlds.paths import Path as WalkedPath
from memkit.worlds.paths import turn_and_return
from memkit.worlds.rooms import Room, RoomClip
from recipes.memlearner.presets import Config
from recipes.memlearner.videos import RoomVideo, room_names

Comparison = Literal["truth", "revisit"]
COMPARISONS: tuple[Comparison, ...] = ("truth", "revisit")
Run = dict[tuple[str, str], "Row"]
"""Rows of one training run, by condition and id."""


@dataclass(frozen=True)
class Row:
    """One clip; NaN where there is nothing to measure."""

    id: str
    """Room, with people or without."""
    condition: str
    """Comparison, and what made the clip: "truth", "revisit", with " / still" or " / autoencoder" for the controls."""
    psnr: float
    """In dB, against the truth: of all frames that were made, or in a revisit of the way back."""
    again: float
    """In dB, of frames seen before: in "truth" against the truth, in "revisit" against the frames of the way there."""
    attention: float = math.nan
    """Share of the queries' attention on context, over the chunks that have some."""
    followed: float = math.nan
    """Share of the chunk's own attention on the queries, over the same."""


@dataclass(frozen=True)
class Clip:
    """A path through a room: what is given of it, and what is to be made."""

    room: RoomClip
    past: int
    """Chunks that are given; with none, the first frame is."""
    chunks: int
    """Chunks to make."""

    def caption(self, seconds: float) -> str:
        """What the camera does in the chunk that begins so many seconds after the clip."""
        room = self.room
        return RoomClip(room.room, room.path, room.start_seconds + seconds, room.seconds).motion

    def given(self, form: VideoFormat) -> int:
        """Frames that are."""
        return self.past * (form.num_frames - 1) + 1


@lru_cache(maxsize=512)  # several runs are measured on the same clips; all of the preset's are 190 MB
def truth(clip: Clip, form: VideoFormat) -> tuple[UInt8[Tensor, "frames h w 3"], Cameras]:
    """All frames of a clip, given and to be made, and their cameras."""
    count = (clip.past + clip.chunks) * (form.num_frames - 1) + 1
    return clip.room.video(count, form.fps, form.height), clip.room.cameras(count, form.fps)


def test_rooms(count: int) -> list[str]:
    """The first rooms, each without people and with them."""
    return room_names("test", 2 * count, both=True)


def has_people(name: str) -> bool:
    """The room of that name."""
    return name.endswith("-dynamic")


def clip_of(comparison: Comparison, name: str, config: Config, form: VideoFormat) -> Clip:
    """Of a room."""
    if comparison == "truth":
        return Clip(RoomVideo(name, config.video_chunks, form).clip(0), config.video_chunks - 1, 1)
    rng = random.Random(f"{name.removesuffix('-dynamic')}/revisit")
    path = WalkedPath(Room.named(name).start)
    path = path.then(*turn_and_return(5.0 * rng.randint(18, 36), rng.choice(("left", "right"))))
    seconds = (form.num_frames - 1) / form.fps
    return Clip(RoomClip(Room.named(name), path, 0.0, seconds), 0, math.ceil(path.duration / seconds))


def score(
    name: str,
    condition: str,
    made: UInt8[Tensor, "frames h w 3"],
    real: UInt8[Tensor, "frames h w 3"],
    cameras: Cameras,
    given: int,
    attention: float = math.nan,
    followed: float = math.nan,
) -> Row:
    """Of a clip whose first ``given`` frames are real."""
    pairs = [(a, b) for a, b in revisit_pairs(cameras) if b >= given]
    if condition.startswith("truth"):
        quality = psnr(made[given:], real[given:])
        again = quality[[b - given for _, b in pairs]]
        return Row(name, condition, mean_psnr(quality), mean_psnr(again), attention, followed)
    back, there = [b for _, b in pairs], [a for a, _ in pairs]
    if not back:
        return Row(name, condition, math.nan, math.nan, attention, followed)
    own = mean_psnr(psnr(made[back], made[there]))  # a still is always like itself, which says nothing
    own = own if math.isfinite(own) else math.nan
    return Row(name, condition, mean_psnr(psnr(made[back], real[back])), own, attention, followed)
