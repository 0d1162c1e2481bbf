"""The comparisons: clips of unseen rooms or galleries, the scores of generated ones, and the tables of the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.cameras import Cameras
from memkit.evaluation import Measure, Table, compare, differences, field, select
from memkit.metrics import mean_psnr, psnr, revisit_pairs
from memkit.worlds.gallery_tours import GalleryClip, GalleryTour
from memkit.worlds.rooms import RoomClip
from memkit.worlds.tours import RoomTour, has_people, look_back, room_names
from recipes.memlearner.presets import Config, Suite

Comparison = Literal["truth", "revisit"]
COMPARISONS: tuple[Comparison, ...] = ("truth", "revisit")
Run = Mapping[tuple[str, str], "Row"]
"""Rows of one training run, by condition and id."""
REFERENCES = ("none", "learned", "window")
"""Methods that the others are compared with; a study uses the first two that it has."""


@dataclass(frozen=True)
class Row:
    """The scores of one clip; NaN if there is nothing to measure."""

    id: str
    """Name of the room, which says whether there are people in it."""
    condition: str
    """The comparison, "truth" or "revisit"; for the controls followed by " / still" or " / autoencoder"."""
    psnr: float
    """PSNR in dB against the truth, of all generated frames ("truth") or of those of the way back ("revisit")."""
    again: float
    """PSNR in dB of frames that were seen before, against the truth or ("revisit") those generated before."""
    attention: float = math.nan
    """Share of the attention of the queries on the context; mean over the chunks with context."""
    followed: float = math.nan
    """Share of the attention of the chunk on the queries; mean over the same chunks."""


@dataclass(frozen=True)
class Clip:
    """A camera path through a room. The first chunks are rendered, the others are to be generated."""

    room: RoomClip | GalleryClip
    past: int
    """Number of rendered chunks; with 0, only the first frame is rendered."""
    chunks: int
    """Number of chunks to generate."""

    def caption(self, seconds: float) -> str:
        """The camera motion in the chunk that begins after so many seconds."""
        return replace(self.room, start_seconds=self.room.start_seconds + seconds).motion

    def conditioning_frames(self, form: VideoFormat) -> int:
        """Number of conditioning frames."""
        return self.past * (form.num_frames - 1) + 1


@lru_cache(maxsize=512)  # for further runs on the same clips; those of the preset take 190 MB
def truth(clip: Clip, form: VideoFormat) -> tuple[UInt8[Tensor, "frames h w 3"], Cameras]:
    """All frames of a clip and their cameras, rendered."""
    count = (clip.past + clip.chunks) * (form.num_frames - 1) + 1
    return clip.room.video(count, form.fps, form.height), clip.room.cameras(count, form.fps)


def test_rooms(count: int, suite: Suite = "rooms") -> list[str]:
    """Names of the first ``count`` test rooms, each without people and with people; or of twice as many galleries."""
    return room_names("test", 2 * count, both=suite == "rooms")


def clip_of(comparison: Comparison, name: str, config: Config, form: VideoFormat) -> Clip:
    """The clip of a room: a video of which the last chunk is generated, or a turn away and back from one frame.

    In a gallery both are the same tour.
    """
    seconds = (form.num_frames - 1) / form.fps
    if config.suite == "gallery":
        tour, past = GalleryTour(name, config.video_chunks, seconds), config.video_chunks - 1
        return Clip(tour.part(0), past, 1) if comparison == "truth" else Clip(tour.part(0), 0, past + 1)
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
    conditioning_frames: int,
    attention: float = math.nan,
    followed: float = math.nan,
) -> Row:
    """The scores of a video; its first ``conditioning_frames`` frames were not generated."""
    pairs = [(a, b) for a, b in revisit_pairs(cameras) if b >= conditioning_frames]
    if condition.startswith("truth"):
        quality = psnr(video[conditioning_frames:], real[conditioning_frames:])
        again = quality[[b - conditioning_frames for _, b in pairs]]
        return Row(name, condition, mean_psnr(quality), mean_psnr(again), attention, followed)
    back, there = [b for _, b in pairs], [a for a, _ in pairs]
    if not back:
        return Row(name, condition, math.nan, math.nan, attention, followed)
    own = mean_psnr(psnr(video[back], video[there]))  # infinite for a still, which is always like itself
    own = own if math.isfinite(own) else math.nan
    return Row(name, condition, mean_psnr(psnr(video[back], real[back])), own, attention, followed)


QUALITY = {"dB": field("psnr"), "seen before, dB": field("again")}
ATTENTION = {"of the queries on context": field("attention"), "of the chunk on the queries": field("followed")}


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """Tables per kind of room, of methods with equally many runs, and of the controls.

    Further tables have the differences to two of `REFERENCES`, in pairs of the same room and noise, and for methods
    with queries the shares of attention.
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
