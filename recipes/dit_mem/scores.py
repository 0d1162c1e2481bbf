"""Scores of generated clips of the laws world, from the constants and paths that are fitted to them; their tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from memkit.evaluation import Measure, Table, exactly, field, intervals, less
from memkit.metrics import correlation, measure_law
from memkit.metrics.states import frame_shares
from memkit.worlds.law_clips import constants_of, law_of


@dataclass(frozen=True)
class Row:
    """The scores of one clip.

    Constants by name: the true ones, the mean of those of the memory clips (``told``), and those fitted to the pixels,
    without those that could not be fitted. Errors are relative to the width of the frame; NaN if no body was found.
    """

    id: str
    condition: str
    shown: list[str]
    found: bool
    true: dict[str, float]
    told: dict[str, float]
    fitted: dict[str, float]
    path_error: float
    """Distance from the true path, the start of which is not in the caption."""
    law_residual: float
    """Distance from the closest path with the true constants."""


Run = Mapping[tuple[str, str], Row]
"""The rows of one training run, by condition and id."""


def measure(video: UInt8[Tensor, "t h w c"], id: str, condition: str, shown: Sequence[str], fps: float) -> Row:
    """The scores of a video of the clip ``id``, generated from the memory clips ``shown``."""
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
OVERALL = {
    "found": field("found"),
    "path error, %": PATH,
    "less none": less(PATH, "none"),
    "law residual, %": LAW,
    "less none's": less(LAW, "none"),
}
"""Whether the body was found, and how far its path is from the true one and from the law, in % of the frame."""


def digits(title: str) -> int:
    """Number of decimal places in a table."""
    return 3 if title in ("rate", "restitution") or "less" in title else 2


def tables(runs: Sequence[Run], conditions: Sequence[str]) -> dict[str, Table]:
    """The table of all clips (its title is ""), and one per constant."""
    by_constant = {name: constant_table(runs, conditions, name) for name in constants_in(runs)}
    return {"": {condition: intervals(OVERALL, runs, condition) for condition in conditions}, **by_constant}


def constants_in(runs: Sequence[Run]) -> list[str]:
    """The names of the constants that the rows have, in their order."""
    return list(dict.fromkeys(name for run in runs for row in run.values() for name in row.true))


def errors(runs: Sequence[Run]) -> dict[str, Measure]:
    """The errors of the path and of all constants that the rows have."""
    constants = {f"{name} error": constant_measures(name)["error"] for name in constants_in(runs)}
    return {"path error, %": PATH, "law residual, %": LAW, **constants}


def constant_table(runs: Sequence[Run], conditions: Sequence[str], name: str) -> Table:
    """The measures of one constant, and the number of clips per run in which it could be fitted."""
    table: Table = {}
    for condition in conditions:
        clips = sum(name in row.fitted for run in runs for (of, _), row in run.items() if of == condition)
        cells = intervals(constant_measures(name), runs, condition)
        table[condition] = {"clips": exactly(clips / len(runs)), **cells}
    return table


def constant_measures(name: str) -> dict[str, Measure]:
    """How near a fitted constant is to the truth, and to that of the clips shown.

    "less none" is over the clips in which the constant could be fitted both with and without memory. "nearer to the
    clips shown" is the reduction, by memory, of the distance to their constant.
    """

    def constant(part: str) -> Callable[[Row], float]:
        return lambda row: getattr(row, part).get(name, math.nan)

    fitted, true, told = map(constant, ("fitted", "true", "told"))
    error = Measure(lambda row: abs(fitted(row) - true(row)))
    return {
        "error": error,
        "less none": less(error, "none"),
        "correlation with truth": Measure((fitted, true), correlation),
        "with the clips shown": Measure((fitted, told), correlation),
        "nearer to the clips shown": Measure(
            lambda row, none: abs(fitted(none) - told(row)) - abs(fitted(row) - told(row)), control="none"
        ),
    }
