"""How a generated clip is scored, against its uninterrupted twin and a world that stopped, and the tables of scores."""

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
    return Truth(clip.interrupted.twin(config.frames, config.fps, config.height), clip.interrupted.event, config.fps)


def score(video: Frames, truth: Truth, part: slice, last_seen: int) -> HiddenProcess:
    """Scores of the frames ``part``, which are ``video``; a world that stopped still shows the frame ``last_seen``."""
    seconds, frames = times(len(truth.frames), truth.fps), truth.frames
    now, then = seconds[part], seconds[last_seen]
    return measure_hidden_process(video, frames[part], frames[last_seen], truth.process, now, then)


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


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """Recovery, in all and by kind of interruption, attention, and plain image-to-video; a row per name of runs."""
    first = next(iter(runs.values()))
    kinds = dict.fromkeys(row.by for run in first for row in run.values() if row.by != "nothing")
    out = {"recovery": recovery_table(runs)}
    out |= {f"recovery: {kind}": recovery_table(select(runs, lambda row, kind=kind: row.by == kind)) for kind in kinds}
    base = {"base": intervals(ATTENTION, first[:1], "recovery / base")}
    out["attention"] = compare(ATTENTION, runs, "recovery") | base
    out["plain image-to-video"] = plain_table(runs)
    return out


def recovery_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Variants beside the controls."""
    out = compare(MEASURES, runs, "recovery")
    forgetful = {name: some for name, some in runs.items() if any(c == FORGETFUL for c, _ in some[0])}
    out |= {f"{name}, without the past": cells for name, cells in compare(MEASURES, forgetful, FORGETFUL).items()}
    first = next(iter(runs.values()))[:1]
    return out | {c.removeprefix("recovery / "): intervals(MEASURES, first, c) for c in CONTROLS}


def plain_table(runs: Mapping[str, Sequence[Run]]) -> Table:
    """Undisturbed clips, before and after training, as a stream and bidirectional."""
    first = next(iter(runs.values()))[:1]
    return {c.removeprefix("plain / "): intervals(MEASURES, first, c) for c in PLAIN_CONTROLS} | _plain(runs, None)


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
