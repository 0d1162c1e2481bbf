"""How a generated clip is scored, against its uninterrupted twin and a world that stopped, and the tables of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from memkit.metrics import evolution_score, hidden_state_error, mean_psnr, measure_state, psnr, state_evolution
from memkit.metrics.states import PERIODS, frame_shares
from memkit.worlds import Event, render
from memkit.worlds.event import camera, times
from recipes.common.tables import Measure, Table, field, intervals
from recipes.remind.clips import WorldClip

Frames = UInt8[Tensor, "frames height width 3"]
FORGETFUL = "recovery / without the past"
PLAIN = ("plain", "plain / bidirectional")
OWN = ("recovery", FORGETFUL, *PLAIN)
"""Conditions of a run; those that no run changes:"""
CONTROLS = ("recovery / autoencoder", "recovery / frozen", "recovery / base", "recovery / base, bidirectional")
PLAIN_CONTROLS = ("plain / base, bidirectional", "plain / base")


@dataclass(frozen=True)
class Row:
    """The scores of one clip. What could not be measured is NaN."""

    id: str
    condition: str
    """What was generated, and by which model: "recovery", "recovery / base", "plain", …"""
    by: str
    """The kind of interruption."""
    process: str
    """The process that the clip shows; "video" of a file."""
    psnr: float
    """In dB, against the twin."""
    evolution: float
    """Of the pixels that show, or showed, what moves: 1 as the twin, 0 as far off as a world that stopped."""
    state_evolution: float
    """The same of the state of the process, over the frames in which it was found."""
    state_error: float
    """Error of the state, as a share of the frame's width."""
    found: float
    """Share of the frames in which the state was found."""
    attends_before: float = math.nan
    """Share of the generated frames' attention that goes to the frames before the interruption."""
    attends_newest: float = math.nan
    """The same, to the newest chunk."""
    attends_mirror: float = math.nan
    """The same, to the frames with the same view, of a camera that looked away and came back."""


Run = dict[tuple[str, str], Row]


class Truth(NamedTuple):
    """The twin of a clip, frame 0 first, and the process in it, where that is known."""

    frames: Frames
    process: Event | None
    fps: float


@lru_cache(maxsize=512)  # under each condition the same; all of the preset's are 36 MB
def truth_of(clip: WorldClip) -> Truth:
    """The twin of a rendered clip."""
    config = clip.config
    return Truth(clip.drawn.twin(config.frames, config.fps, config.height), clip.drawn.event, config.fps)


class Scores(NamedTuple):
    """See `Row`."""

    psnr: float
    evolution: float
    state_evolution: float
    state_error: float
    found: float


def score(video: Frames, truth: Truth, part: slice, last_seen: int) -> Scores:
    """Scores of the frames ``part``, which are ``video``; a world that stopped still shows the frame ``last_seen``."""
    twin, frozen = truth.frames[part], truth.frames[last_seen]
    quality = mean_psnr(psnr(video, twin))
    quality = quality if math.isfinite(quality) else math.nan  # of equal frames
    if truth.process is None:
        return Scores(quality, evolution_score(video, twin, frozen), math.nan, math.nan, 0.0)
    event, seconds = truth.process, times(len(truth.frames), truth.fps)
    now, then = seconds[part], seconds[last_seen : last_seen + 1]
    mask = moving(event, now, video.shape[1]) | moving(event, then, video.shape[1])
    state = _vectors(measure_state(video, event), event)
    true, before = (_vectors(event.state(t), event) for t in (now, then))
    evolved = state_evolution(state, true, before[0])
    error = hidden_state_error(state, true, 1.0)
    return Scores(quality, evolution_score(video, twin, frozen, mask), evolved.value, error.value, error.found)


def moving(event: Event, seconds: Float[Tensor, " frames"], size: int) -> Bool[Tensor, "frames {size} {size}"]:
    """The pixels of what moves or changes in an event."""
    fixed = 1 + len(event.fixtures())  # the floor is first
    return render(event.scene(seconds), camera(), size, size, antialias=False).ids >= fixed


def _vectors(state: dict[str, Tensor], event: Event) -> Float[Tensor, "frames variables"]:
    """A state in shares of the frame's width; of an angle its cosine and sine, which know no turns."""
    values = torch.stack([state[name] for name in event.units], dim=-1).double()
    if period := PERIODS.get(event.shows):
        turned = values * (2 * math.pi / period)
        values = torch.cat([turned.cos(), turned.sin()], dim=-1) * (period / (2 * math.pi))
    return values * frame_shares(event)


# -- tables

MEASURES = {
    # medians: where a process hardly moved while it was hidden, a score divides by next to nothing
    "evolution, pixels (median)": field("evolution", statistic=np.median),
    "evolution, state (median)": field("state_evolution", statistic=np.median),
    "state error, % of the frame": field("state_error", 100.0),
    "state found, %": field("found", 100.0),
    "PSNR, dB": field("psnr"),
}
ATTENTION = {
    "on what was seen before, %": field("attends_before", 100.0),
    "on the newest chunk, %": field("attends_newest", 100.0),
    "on the same view, %": field("attends_mirror", 100.0),
}


def only(runs: Sequence[Run], kind: str | None) -> list[Run]:
    """The rows of clips with one kind of interruption, or all."""
    return [{key: row for key, row in run.items() if kind in (None, row.by)} for run in runs]


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """Recovery, in all and by kind of interruption, attention, and plain image-to-video; a row per name of runs."""
    first = next(iter(runs.values()))
    kinds = dict.fromkeys(row.by for run in first for row in run.values() if row.by != "nothing")
    out = {"recovery": recovery_table(runs)} | {f"recovery: {kind}": recovery_table(runs, kind) for kind in kinds}
    base = {"base": intervals(ATTENTION, first[:1], "recovery / base")}
    out["attention"] = recovery(runs, measures=ATTENTION) | base
    out["plain image-to-video"] = plain_table(runs)
    return out


def recovery(runs: Mapping[str, Sequence[Run]], measures: Mapping[str, Measure] = MEASURES) -> Table:
    """How well each variant recovers."""
    return {name: intervals(measures, some, "recovery") for name, some in runs.items()}


def recovery_minus(runs: Mapping[str, Sequence[Run]], reference: str) -> Table:
    """The differences of each other variant to ``reference``, on the same clips, noise and seed of training."""
    against, others = (runs[reference], "recovery"), {n: some for n, some in runs.items() if n != reference}
    return {name: intervals(MEASURES, some, "recovery", against) for name, some in others.items()}


def recovery_minus_base(runs: Mapping[str, Sequence[Run]]) -> Table:
    """The differences to the model that training started from, on the same clips and noise."""
    base = next(iter(runs.values()))[:1], "recovery / base"
    return {name: intervals(MEASURES, some, "recovery", base) for name, some in runs.items()}


def recovery_minus_forgetful(runs: Mapping[str, Sequence[Run]]) -> Table:
    """What the frames from before the interruption contribute to each variant."""
    return {name: intervals(MEASURES, some, "recovery", (some, FORGETFUL)) for name, some in runs.items()}


def recovery_table(runs: Mapping[str, Sequence[Run]], kind: str | None = None) -> Table:
    """Variants beside the controls, for one kind of interruption or all."""
    rows = {name: only(some, kind) for name, some in runs.items()}
    out = recovery(rows)
    for name, some in runs.items():
        if any(condition == FORGETFUL for condition, _ in some[0]):
            out[f"{name}, without the past"] = intervals(MEASURES, rows[name], FORGETFUL)
    first = next(iter(rows.values()))[:1]
    return out | {c.removeprefix("recovery / "): intervals(MEASURES, first, c) for c in CONTROLS}


def plain_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Undisturbed clips, before and after training, as a stream and bidirectional."""
    first = next(iter(runs.values()))[:1]
    out = {c.removeprefix("plain / "): intervals(MEASURES, first, c) for c in PLAIN_CONTROLS}
    return out | _plain(runs, None)


def plain_minus_base(runs: Mapping[str, Sequence[Run]]) -> Table:
    """The differences to the base model in the same mode, of undisturbed clips: below 0 in PSNR, it was forgotten."""
    return _plain(runs, next(iter(runs.values()))[:1])


def _plain(runs: Mapping[str, Sequence[Run]], base: Sequence[Run] | None) -> Table:
    modes = (("", "plain", "plain / base"), (", bidirectional", "plain / bidirectional", "plain / base, bidirectional"))
    return {
        name + mode: intervals(MEASURES, some, condition, None if base is None else (base, control))
        for name, some in runs.items()
        for mode, condition, control in modes
    }
