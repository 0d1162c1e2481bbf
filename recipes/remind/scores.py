"""Scores of generated clips, relative to the uninterrupted twin and to a still of the last frame seen; their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from memkit.evaluation import Table, compare, field, intervals, select
from memkit.metrics import HiddenProcess, measure_hidden_process
from memkit.worlds import Event
from memkit.worlds.event import times
from recipes.remind.clips import WorldClip

Frames = UInt8[Tensor, "frames height width 3"]
FORGETFUL = "recovery / without the past"
PLAIN = ("plain", "plain / bidirectional")
OWN = ("recovery", FORGETFUL, *PLAIN)
"""Conditions of a run. The controls, which are the same for all runs, are:"""
CONTROLS = ("recovery / autoencoder", "recovery / frozen", "recovery / base", "recovery / base, bidirectional")
PLAIN_CONTROLS = ("plain / base, bidirectional", "plain / base")


@dataclass(frozen=True)
class Row:
    """The scores of one clip; NaN for those that could not be measured."""

    id: str
    condition: str
    """The generated part and the model: "recovery", "recovery / base", "plain", …"""
    by: str
    """The kind of interruption."""
    process: str
    """The process that the clip shows; "video" for a file."""
    psnr: float
    """PSNR in dB against the twin."""
    evolution: float
    """Evolution of the moving pixels: 1 if they are like the twin, 0 if they are as far off as the frozen frame."""
    state_evolution: float
    """The same for the state of the process, over the frames in which it was found."""
    state_error: float
    """Error of the state, relative to the width of the frame."""
    found: float
    """Share of the frames in which the state was found."""
    attends_before: float = math.nan
    """Share of the attention of the generated frames on the frames before the interruption."""
    attends_newest: float = math.nan
    """The same on the newest chunk."""
    attends_mirror: float = math.nan
    """The same on frames with the same view, if the camera looked away and came back."""


Run = Mapping[tuple[str, str], Row]


class Truth(NamedTuple):
    """The twin of a clip from frame 0 on, and its process if it is known."""

    frames: Frames
    process: Event | None
    fps: float


@lru_cache(maxsize=512)  # for all conditions; those of the preset take 36 MB
def truth_of(clip: WorldClip) -> Truth:
    """The twin of a rendered clip."""
    config = clip.config
    return Truth(clip.interrupted.twin(config.frames, config.fps, config.height), clip.interrupted.event, config.fps)


def score(video: Frames, truth: Truth, part: slice, last_seen: int) -> HiddenProcess:
    """Scores of ``video``, the generated frames ``part``; ``last_seen`` is the last frame before the interruption."""
    seconds, frames = times(len(truth.frames), truth.fps), truth.frames
    now, then = seconds[part], seconds[last_seen]
    return measure_hidden_process(video, frames[part], frames[last_seen], truth.process, now, then)


# -- tables

MEASURES = {
    # medians, because the score of a process that hardly moved while it was hidden divides by almost 0
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


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """Recovery (all clips, and per kind of interruption), attention, plain image-to-video; one row per variant."""
    first = next(iter(runs.values()))
    kinds = dict.fromkeys(row.by for run in first for row in run.values() if row.by != "nothing")
    out = {"recovery": recovery_table(runs)}
    out |= {f"recovery: {kind}": recovery_table(select(runs, lambda row, kind=kind: row.by == kind)) for kind in kinds}
    base = {"base": intervals(ATTENTION, first[:1], "recovery / base")}
    out["attention"] = compare(ATTENTION, runs, "recovery") | base
    out["plain image-to-video"] = plain_table(runs)
    return out


def recovery_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """The variants and the controls."""
    out = compare(MEASURES, runs, "recovery")
    forgetful = {name: some for name, some in runs.items() if any(c == FORGETFUL for c, _ in some[0])}
    out |= {f"{name}, without the past": cells for name, cells in compare(MEASURES, forgetful, FORGETFUL).items()}
    first = next(iter(runs.values()))[:1]
    return out | {c.removeprefix("recovery / "): intervals(MEASURES, first, c) for c in CONTROLS}


def plain_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Undisturbed clips before and after training, as a stream and bidirectional."""
    first = next(iter(runs.values()))[:1]
    return {c.removeprefix("plain / "): intervals(MEASURES, first, c) for c in PLAIN_CONTROLS} | _plain(runs, None)


def plain_minus_base(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Differences to the base model in the same mode, on undisturbed clips: a PSNR below 0 shows forgetting."""
    return _plain(runs, next(iter(runs.values()))[:1])


def _plain(runs: Mapping[str, Sequence[Run]], base: Sequence[Run] | None) -> Table:
    modes = (("", "plain", "plain / base"), (", bidirectional", "plain / bidirectional", "plain / base, bidirectional"))
    return {
        name + mode: intervals(MEASURES, some, condition, None if base is None else (base, control))
        for name, some in runs.items()
        for mode, condition, control in modes
    }
