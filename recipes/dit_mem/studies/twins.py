"""Scores of filtered clips relative to their unfiltered twins, which have the same noise; their table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memkit.evaluation import Table, interval
from memkit.metrics import Interval

UNFILTERED = "unfiltered"


@dataclass(frozen=True)
class Row:
    """The scores of one clip. See `memkit.metrics.TwinComparison` for those after the first three."""

    condition: str
    prompt: int
    changed: float
    """Mean square of the change relative to that of the state, mean over the calls of the model."""
    found: bool
    law_residual: float
    path_distance: float
    colour_distance: float
    squared_error: float
    fine: float
    motion: float


def tabulate(rows: dict[tuple[str, int], Row], names: list[str], prompts: int) -> Table:
    """One row per condition. Twins are not compared with themselves."""

    def column(name: str, field: str) -> np.ndarray:
        itself = name == UNFILTERED and field in ("path_distance", "colour_distance", "squared_error")
        values = np.array([getattr(rows[name, i], field) for i in range(prompts)], dtype=float)
        return np.full_like(values, math.nan) if itself else values

    def mean(name: str, field: str) -> Interval:
        values = column(name, field)
        return interval(np.mean, 100 * values[None, ~np.isnan(values)])

    return {
        name: {
            "state changed, %": mean(name, "changed"),
            "found, %": mean(name, "found"),
            "colour distance, %": mean(name, "colour_distance"),
            "path distance, %": mean(name, "path_distance"),
            "PSNR, dB": interval(psnr_of_all, column(name, "squared_error")[None]),
            "fine, %": mean(name, "fine"),
            "motion, ratio": interval(_ratio, column(name, "motion")[None], column(UNFILTERED, "motion")[None]),
            "law residual, %": mean(name, "law_residual"),
        }
        for name in names
    }


def psnr_of_all(squared_error: np.ndarray) -> float:
    """PSNR in dB from the mean squared error of all clips; NaN if they are equal."""
    return -10 * math.log10(error) if (error := squared_error.mean()) > 0 else math.nan


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    return a.mean() / b.mean() if b.any() else math.nan
