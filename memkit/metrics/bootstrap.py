"""Confidence intervals by the percentile bootstrap (Efron, 1979).

Not `scipy.stats.bootstrap`: it resamples one axis, so it has no intervals over runs and items together; it refuses a
single row and returns NaN where a resample's statistic is NaN; and its bounds differ from the published ones in the
last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from memkit.checks import check_number, check_whole, shown
from memkit.errors import InputError


class Interval(NamedTuple):
    """A statistic and its confidence bounds; NaN where they are undefined."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., float], *columns: np.ndarray, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """``statistic`` of ``columns`` (arrays of equal length with independent rows) and its confidence interval.

    Whole rows are resampled, so paired columns stay paired. Resamples whose statistic is NaN are left out. Without rows
    everything is NaN; with one row, the bounds equal the value.

    Raises `InputError` for columns of unequal length, no column, a level outside (0, 1), or no resample.
    """
    columns = tuple(map(_numbers, columns))
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise InputError(f"The bootstrap has columns of {sorted(lengths)} rows; give columns of one length.")
    _check(resamples, level, seed)
    (rows,) = lengths
    if not rows:
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(rows, size=rows) for _ in range(resamples))
    values = np.array([statistic(*(column[i] for column in columns)) for i in drawn])
    values = values[~np.isnan(values)]
    value = float(statistic(*columns))
    if not len(values):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def bootstrap_runs(
    statistic: Callable[..., float], *columns: np.ndarray, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """``bootstrap`` of measurements [runs, items], such as several training runs evaluated on the same prompts.

    Runs are resampled, and items, the same ones for all runs; so the interval covers both other runs and other prompts.
    Entries where any column is NaN are left out. With one run it equals ``bootstrap`` and does not cover other runs.
    With n runs, the part of the width that comes from them is too small by the factor √((n−1)/n): by a fifth for
    three.

    Raises `InputError` for columns of unequal shape, and as ``bootstrap`` does.
    """
    columns = tuple(map(_numbers, columns))
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise InputError("The columns do not all have the same shape [runs, items]; give missing measurements as NaN.")
    runs, items = shape
    _check(resamples, level, seed)
    rng, table = np.random.default_rng(seed), np.stack(columns)
    measured = np.asarray(~np.isnan(table).any(axis=0))

    def value(run: np.ndarray, item: np.ndarray) -> float:
        entries = run[:, None], item[None]
        drawn = table[:, *entries][:, measured[entries]]
        return float(statistic(*drawn)) if drawn.size else math.nan

    whole = value(np.arange(runs), np.arange(items))
    if math.isnan(whole):
        return Interval(math.nan, math.nan, math.nan)
    draws = ((rng.integers(runs, size=runs), rng.integers(items, size=items)) for _ in range(resamples))
    values = np.array([value(run, item) for run, item in draws])
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(whole, float(low), float(high))


def _numbers(column: object) -> np.ndarray:
    array = np.asarray(column)
    if array.ndim < 1 or array.dtype.kind not in "biuf":
        raise InputError(f"A column of the bootstrap is {shown(column)}; give an array of numbers.")
    return array


def _check(resamples: int, level: float, seed: int) -> None:
    check_whole("resamples", resamples, 1, 10_000_000)
    check_number("level", level)
    check_whole("seed", seed)
    if not 0 < level < 1:
        raise InputError(f"The bootstrap has level {level}; give one between 0 and 1.")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; NaN for fewer than three pairs or a constant column."""
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
