"""How a generated clip of the laws world is scored, by the constants and paths in its pixels, and tables of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from memkit.evaluation import Cells, Measure, Table, exactly, field, interval, intervals, values
from memkit.metrics import correlation, measure_law
from memkit.metrics.states import frame_shares
from memkit.worlds.law_clips import constants_of, law_of


@dataclass(frozen=True)
class Row:
    """The scores of one clip.

    Constants by name: those it should have (``true``), the mean of those of the clips it was shown (``told``), and
    those of its pixels (``fitted``, without those that could not be fitted). Errors are shares of the frame's width,
    NaN if the body was not found.
    """

    id: str
    condition: str
    shown: list[str]
    found: bool
    true: dict[str, float]
    told: dict[str, float]
    fitted: dict[str, float]
    path_error: float
    """Distance from the true path, whose start no caption tells."""
    law_residual: float
    """Distance from the nearest path under the true constants."""


Run = Mapping[tuple[str, str], Row]
"""The rows of one training run, by condition and id."""


def measure(video: UInt8[Tensor, "t h w c"], id: str, condition: str, shown: Sequence[str], fps: float) -> Row:
    """The scores of a video of the clip ``id``, generated under a condition that showed it other clips."""
    law = law_of(id)
    found, share = measure_law(video, law, fps), frame_shares(law)
    clips = [constants_of(law_of(clip)) for clip in shown]
    told = {name: [clip[name] for clip in clips if name in clip] for name in law.constants}
    return Row(
        id,
        condition,
        list(shown),
        found.found,
        constants_of(law),
        {name: sum(some) / len(some) for name, some in told.items() if some},
        {name: value for name, value in found.constants.items() if not math.isnan(value)},
        found.state_error * share,
        found.law_residual * share,
    )


# -- tables

UNITS = {"gravity": "m/s²", "restitution": "of the speed", "rate": "1/s"}
PATH, LAW = field("path_error", 100.0), field("law_residual", 100.0)


def digits(title: str) -> int:
    """Decimal places of a table."""
    return 3 if title in ("rate", "restitution") or "less" in title else 2


def tables(runs: Sequence[Run], conditions: Sequence[str]) -> dict[str, Table]:
    """Over all clips, under the title "", and by constant."""
    by_constant = {name: constant_table(runs, conditions, name) for name in constants_in(runs)}
    return {"": {condition: overall(runs, condition) for condition in conditions}, **by_constant}


def constants_in(runs: Sequence[Run]) -> list[str]:
    """The names of the constants that the rows have, in their order."""
    return list(dict.fromkeys(name for run in runs for row in run.values() for name in row.true))


def overall(runs: Sequence[Run], condition: str) -> Cells:
    """Whether the body was found, and how far its path is from the true one and from the law, in % of the frame."""
    cells = intervals({"path error, %": PATH, "law residual, %": LAW}, runs, condition)
    less = intervals({"less none": PATH, "less none's": LAW}, runs, condition, (runs, "none"))
    found = intervals({"found": Measure(lambda row: float(row.found))}, runs, condition)
    cells |= found | less
    return {name: cells[name] for name in ("found", "path error, %", "less none", "law residual, %", "less none's")}


def constant_table(runs: Sequence[Run], conditions: Sequence[str], name: str) -> Table:
    """How near a fitted constant is to the truth, and to that of the clips shown.

    "less none" is in pairs of the same prompt and noise in which both clips tell the constant. "nearer to the clips
    shown" is how much less the constant is off theirs than the one without memory is.
    """
    error = Measure(lambda row: _error(row, name))
    table: Table = {}
    for condition in conditions:
        fitted, none = (values(runs, c, lambda row: row.fitted.get(name, math.nan)) for c in (condition, "none"))
        true = values(runs, condition, lambda row: row.true.get(name, math.nan))
        told = values(runs, condition, lambda row: row.told.get(name, math.nan))
        table[condition] = {
            "clips": exactly(float((~np.isnan(fitted)).sum(1).mean())),
            **intervals({"error": error}, runs, condition),
            **intervals({"less none": error}, runs, condition, (runs, "none")),
            "correlation with truth": interval(correlation, fitted, true),
            "with the clips shown": interval(correlation, fitted, told),
            "nearer to the clips shown": interval(np.mean, np.abs(none - told) - np.abs(fitted - told)),
        }
    return table


def error_differences(runs: Sequence[Run], condition: str, reference: tuple[Sequence[Run], str]) -> Cells:
    """Errors under a condition minus those of ``reference`` (runs, condition), of the same prompt and noise."""
    errors = {f"{name} error": Measure(lambda row, name=name: _error(row, name)) for name in constants_in(runs)}
    return intervals({"path error, %": PATH, "law residual, %": LAW, **errors}, runs, condition, reference)


def _error(row: Row, name: str) -> float:
    return abs(row.fitted.get(name, math.nan) - row.true.get(name, math.nan))
