"""`Cell`: one number that every run of a mechanism on a probe has, and the variants of mechanisms that claims need."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from memkit.injectors.kv_cache import CacheParts, Integers, KeyDifference
from memkit.probes import MECHANISMS, Mechanism, Probe, ProbeResult, make_probe
from memkit.probes.mechanisms import (
    CachedKeys,
    CarriedState,
    EncodedClips,
    FramesInView,
    FramesOfSurfels,
    LatentsInSpace,
    LearnedQueries,
    RoutedFrames,
    TeacherForced,
)

VARIANTS: dict[str, Callable[..., Mechanism]] = {
    "fov 2": partial(FramesInView, per_frame=2),
    "fov 4": partial(FramesInView, per_frame=4),
    "fov, depth": partial(FramesInView, depth=True),
    "surfels": FramesOfSurfels,
    "surfels, votes": partial(FramesOfSurfels, select="votes"),
    "lifted latents": LatentsInSpace,
    "routed": RoutedFrames,
    "queries (noise), no Q→P": partial(LearnedQueries, query_sees_prediction=False),
    "queries (noise), 1 layer": partial(LearnedQueries, layers=1),
    "queries (noise), 2 layers": partial(LearnedQueries, layers=2),
    "queries (noise), timestep of P": partial(LearnedQueries, query_time="shared"),
    "queries (copy), timestep 0": partial(LearnedQueries, query="copy"),
    "teacher forcing": TeacherForced,
    "teacher forcing, no curriculum": partial(
        TeacherForced, node_drop=0.0, noisy_memory=0.0, frontier=False, reference=0.0
    ),
    "teacher forcing, no node drop": partial(TeacherForced, node_drop=0.0),
    "teacher forcing, no noisy memory": partial(TeacherForced, noisy_memory=0.0),
    "teacher forcing, no frontier": partial(TeacherForced, frontier=False),
    "teacher forcing, no reference cache": partial(TeacherForced, reference=0.0),
    "kv cache, int8": partial(CachedKeys, cameras="off", parts=CacheParts(storage=Integers(8))),
    "kv cache, half by keys": partial(
        CachedKeys, cameras="off", at_once=1, share=0.5, parts=CacheParts(keep=KeyDifference())
    ),
    "kv cache, pm-rope full": partial(CachedKeys, cameras="full"),
    "state space, matrix": partial(CarriedState, matrix=True),
    "encoder, low bands": partial(EncodedClips, bands="low"),
    "encoder, high bands": partial(EncodedClips, bands="high"),
    "encoder, no filters": partial(EncodedClips, bands="whole"),
}
"""Mechanisms beside those of `MECHANISMS`, by the names of their rows."""


def mechanism_of(name: str) -> Callable[..., Mechanism]:
    """What creates a mechanism of the leaderboard."""
    return {**MECHANISMS, **VARIANTS}[name]


@dataclass(frozen=True)
class Cell:
    """One number of the row of a mechanism on a probe: its accuracy, unless another is named."""

    probe: str
    mechanism: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    """Knobs of the probe with other values than the default in the whole run; their ranges are then fixed."""
    at: tuple[str, Any] | None = None
    """A point on a curve: a knob and its value in the test."""
    condition: str | None = None
    """A control, see `ProbeResult.conditions`."""
    kind: str | None = None
    """A kind of question; by default, all."""

    def task(self) -> Probe[Any]:
        """The probe that is run."""
        return make_probe(self.probe, **self.knobs)

    def rows(self, rows: Sequence[ProbeResult]) -> list[ProbeResult]:
        """The rows that have this cell, one per seed."""
        knobs = json.loads(json.dumps(asdict(self.task().knobs)))
        return [row for row in rows if (row.probe, row.mechanism, row.knobs) == (self.probe, self.mechanism, knobs)]

    def value(self, row: ProbeResult) -> float:
        """The number in a row."""
        if self.at is not None:
            knob, wanted = self.at
            (found,) = [accuracy for value, accuracy in row.curves[knob] if value == wanted]
            return found
        kinds = row.kinds if self.condition is None else row.conditions[self.condition]
        if self.kind is not None:
            return kinds[self.kind]
        return row.accuracy if self.condition is None else sum(kinds.values()) / len(kinds)

    @property
    def chance(self) -> float:
        """The number of the best guess without the past."""
        questions = next(self.task().batches("test", 0, 1)).questions
        return statistics.fmean(each.chance for each in questions if self.kind in (None, each.kind))

    def __str__(self) -> str:
        details = [f"{knob} = {value}" for knob, value in self.knobs.items()]
        details += [] if self.at is None else [f"{self.at[0]} = {_plain(self.at[1])}"]
        details += [] if self.condition is None else [f"past: {self.condition}"]
        details += [] if self.kind is None else [f"{self.kind} alone"]
        return f"`{self.mechanism}`" + (f" ({', '.join(details)})" if details else "")


def _plain(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


WITH_DEPTH: tuple[Cell, ...] = tuple(
    Cell("occlusion", name, {"depth": True}) for name in ("fov, depth", "surfels", "surfels, votes", "lifted latents")
)
"""Cells of mechanisms that take the depth of the past, which the probe gives with a knob; no claim needs them all."""

FURTHER: tuple[Cell, ...] = (
    *(Cell(probe, name) for probe in ("recall", "occlusion") for name in ("routed", "state space, matrix")),
    *(Cell(probe, name) for probe in ("evolve", "switch") for name in ("kv cache, int8", "kv cache, half by keys")),
)
"""Cells of memories of which the three papers claim nothing."""
