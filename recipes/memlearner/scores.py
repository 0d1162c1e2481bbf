"""The comparisons: clips of unseen rooms, how a generated one is scored, and the tables of the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.cameras import Cameras
from memkit.evaluation import Measure, Table, compare, differences, field, select
from memkit.metrics import mean_psnr, psnr, revisit_pairs
from memkit.worlds.rooms import RoomClip
from memkit.worlds.tours import RoomTour, has_people, look_back, room_names
from recipes.memlearner.presets import Config

Comparison = Literal["truth", "revisit"]
COMPARISONS: tuple[Comparison, ...] = ("truth", "revisit")
Run = dict[tuple[str, str], "Row"]
"""Rows of one training run, by condition and id."""
REFERENCES = ("none", "learned", "window")
"""Methods that others are compared with, the first two that a table has."""


@dataclass(frozen=True)
class Row:
    """The scores of one clip; NaN where there is nothing to measure."""

    id: str
    """Name of the room, which tells whether there are people in it."""
    condition: str
    """The comparison, "truth" or "revisit"; of the controls with " / still" or " / autoencoder" after it."""
    psnr: float
    """In dB, against the truth: of all generated frames ("truth"), or of those of the way back ("revisit")."""
    again: float
    """In dB, of frames seen before: against the truth ("truth"), or the generated frames of the way there ("revisit").
    """
    attention: float = math.nan
    """Share of the queries' attention on the context, mean over the chunks that have context."""
    followed: float = math.nan
    """Share of the chunk's own attention on the queries, mean over the same chunks."""


@dataclass(frozen=True)
class Clip:
    """A camera path through a room, of which the first chunks are given."""

    room: RoomClip
    past: int
    """Number of chunks that are given; with 0, the first frame is."""
    chunks: int
    """Number of chunks to generate."""

    def caption(self, seconds: float) -> str:
        """What the camera does in the chunk that begins at this time of the clip."""
        room = self.room
        return RoomClip(room.room, room.path, room.start_seconds + seconds, room.seconds).motion

    def given(self, form: VideoFormat) -> int:
        """Number of frames that are given."""
        return self.past * (form.num_frames - 1) + 1


@lru_cache(maxsize=512)  # several runs are measured on the same clips; all of the preset's are 190 MB
def truth(clip: Clip, form: VideoFormat) -> tuple[UInt8[Tensor, "frames h w 3"], Cameras]:
    """All frames of a clip, given and to be generated, and their cameras."""
    count = (clip.past + clip.chunks) * (form.num_frames - 1) + 1
    return clip.room.video(count, form.fps, form.height), clip.room.cameras(count, form.fps)


def test_rooms(count: int) -> list[str]:
    """Names of the first ``count`` test rooms, each without people and with them."""
    return room_names("test", 2 * count, both=True)


def clip_of(comparison: Comparison, name: str, config: Config, form: VideoFormat) -> Clip:
    """The clip of a room: its video with the last chunk to generate, or from one frame a turn away and back."""
    seconds = (form.num_frames - 1) / form.fps
    if comparison == "truth":
        return Clip(RoomTour(name, config.video_chunks, seconds).part(0), config.video_chunks - 1, 1)
    room = look_back(name, seconds)
    return Clip(room, 0, math.ceil(room.path.duration / seconds))


def score(
    name: str,
    condition: str,
    video: UInt8[Tensor, "frames h w 3"],
    real: UInt8[Tensor, "frames h w 3"],
    cameras: Cameras,
    given: int,
    attention: float = math.nan,
    followed: float = math.nan,
) -> Row:
    """The row of a video whose first ``given`` frames are real."""
    pairs = [(a, b) for a, b in revisit_pairs(cameras) if b >= given]
    if condition.startswith("truth"):
        quality = psnr(video[given:], real[given:])
        again = quality[[b - given for _, b in pairs]]
        return Row(name, condition, mean_psnr(quality), mean_psnr(again), attention, followed)
    back, there = [b for _, b in pairs], [a for a, _ in pairs]
    if not back:
        return Row(name, condition, math.nan, math.nan, attention, followed)
    own = mean_psnr(psnr(video[back], video[there]))  # a still is always like itself, which says nothing
    own = own if math.isfinite(own) else math.nan
    return Row(name, condition, mean_psnr(psnr(video[back], real[back])), own, attention, followed)


QUALITY = {"dB": field("psnr"), "seen before, dB": field("again")}
ATTENTION = {"of the queries on context": field("attention"), "of the chunk on the queries": field("followed")}


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """Tables by kind of room, of methods, each with as many runs, and controls.

    Further tables have the differences to "none" and to "learned", in pairs of the same room and noise, and
    "attention", of methods with queries, the share of their attention on the context, and of the chunk's on them.
    """
    out: dict[str, Table] = {}
    for title, people in (("rooms without people", False), ("rooms with people", True)):
        rooms = select(runs, lambda row, people=people: has_people(row.id) == people)
        first = next(iter(rooms.values()))
        out[title] = _table(QUALITY, rooms)
        for name in ("autoencoder", "still"):
            out[title] |= _table(QUALITY, {name: first}, f" / {name}")
        for name in [name for name in REFERENCES if name in runs][:2]:
            out[f"{title}: more than {name}"] = _table(QUALITY, rooms, reference=name)
    attention = _table(ATTENTION, runs)
    out["attention"] = {n: cells for n, cells in attention.items() if not math.isnan(next(iter(cells.values())).value)}
    return {title: table for title, table in out.items() if table}


def _table(
    measures: Mapping[str, Measure], runs: Mapping[str, Sequence[Run]], control: str = "", reference: str | None = None
) -> Table:
    """The measures of both comparisons side by side; or those of a control; or the differences to a method."""
    table: Table = {name: {} for name in runs if name != reference}
    for comparison in COMPARISONS:
        shared = (measures, runs, comparison + control)
        part = compare(*shared) if reference is None else differences(*shared, reference)
        for name, cells in part.items():
            table[name] |= {f"{comparison}, {column}": cell for column, cell in cells.items()}
    return table
