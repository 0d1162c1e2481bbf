"""The table of `recipes.dit_mem.studies.filtering`."""

from __future__ import annotations

import math

import numpy as np

from memkit.metrics import Interval, bootstrap
from recipes.common.tables import Table
from recipes.dit_mem.studies.twins import Row

UNFILTERED = "unfiltered"


def tabulate(rows: dict[tuple[str, int], Row], names: list[str], prompts: int) -> Table:
    """One row a condition; twins are not compared with themselves."""

    def column(name: str, field: str) -> np.ndarray:
        known = math.nan if name == UNFILTERED and field in ("path_distance", "colour_distance", "squared_error") else 1
        return known * np.array([getattr(rows[name, i], field) for i in range(prompts)], dtype=float)

    def mean(name: str, field: str) -> Interval:
        values = column(name, field)
        return bootstrap(np.mean, 100 * values[~np.isnan(values)])

    return {
        name: {
            "state changed, %": mean(name, "changed"),
            "found, %": mean(name, "found"),
            "colour distance, %": mean(name, "colour_distance"),
            "path distance, %": mean(name, "path_distance"),
            "PSNR, dB": bootstrap(psnr_of_all, column(name, "squared_error")),
            "fine, %": mean(name, "fine"),
            "motion, ratio": bootstrap(_ratio, column(name, "motion"), column(UNFILTERED, "motion")),
            "law residual, %": mean(name, "law_residual"),
        }
        for name in names
    }


def psnr_of_all(squared_error: np.ndarray) -> float:
    """In dB, of the mean error of all clips; NaN of equal ones."""
    return -10 * math.log10(error) if (error := squared_error.mean()) > 0 else math.nan


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    return a.mean() / b.mean() if b.any() else math.nan
