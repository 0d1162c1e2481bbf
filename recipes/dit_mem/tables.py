"""Tables of measured clips, with 95 % intervals over prompts and, where there are several, over training runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from memkit.metrics import Interval, bootstrap_runs, correlation
from recipes.common.tables import Table, columns, write_tables
from recipes.dit_mem.measured import Row

Run = Mapping[tuple[str, str], Row]
"""The rows of one training run, by condition and id."""
UNITS = {"gravity": "m/s²", "restitution": "of the speed", "rate": "1/s"}


def constants_in(runs: Sequence[Run]) -> list[str]:
    """The constants that the laws of the rows have, in their order."""
    return list(dict.fromkeys(name for run in runs for row in run.values() for name in row.true))


def overall(runs: Sequence[Run], conditions: Sequence[str]) -> Table:
    """Whether the body was found, and how far its path is from the true one and from the law, in % of the frame."""
    table: Table = {}
    for condition in conditions:

        def column(value: Callable[[Row], float], of: str = condition) -> np.ndarray:
            return columns(runs, of, value)

        def less(value: Callable[[Row], float]) -> np.ndarray:
            return column(value) - column(value, "none")

        path, law = (lambda row: 100 * row.path_error), (lambda row: 100 * row.law_residual)
        table[condition] = {
            "found": bootstrap_runs(np.mean, column(lambda row: float(row.found))),
            "path error, %": bootstrap_runs(np.mean, column(path)),
            "less none": bootstrap_runs(np.mean, less(path)),
            "law residual, %": bootstrap_runs(np.mean, column(law)),
            "less none's": bootstrap_runs(np.mean, less(law)),
        }
    return table


def of_constant(runs: Sequence[Run], conditions: Sequence[str], name: str) -> Table:
    """How near a fitted constant is to the truth, and to that of the clips shown.

    "less none" is in pairs of the same prompt and noise in which both clips tell the constant. "nearer to the clips
    shown" is how much less the constant is off theirs than the one without memory is.
    """
    table: Table = {}
    for condition in conditions:
        fitted, none = (columns(runs, of, lambda row: row.fitted.get(name, math.nan)) for of in (condition, "none"))
        true = columns(runs, condition, lambda row: row.true.get(name, math.nan))
        told = columns(runs, condition, lambda row: row.told.get(name, math.nan))
        table[condition] = {
            "clips": _count(fitted),
            "error": bootstrap_runs(np.mean, np.abs(fitted - true)),
            "less none": bootstrap_runs(np.mean, np.abs(fitted - true) - np.abs(none - true)),
            "correlation with truth": bootstrap_runs(correlation, fitted, true),
            "with the clips shown": bootstrap_runs(correlation, fitted, told),
            "nearer to the clips shown": bootstrap_runs(np.mean, np.abs(none - told) - np.abs(fitted - told)),
        }
    return table


def compared(runs: Sequence[Run], pairs: Mapping[str, str]) -> Table:
    """Errors under each condition less those under the one that it is paired with, of the same prompt and noise."""
    return {condition: less_errors((runs, condition), (runs, base)) for condition, base in pairs.items()}


def less_errors(of: tuple[Sequence[Run], str], base: tuple[Sequence[Run], str]) -> dict[str, Interval]:
    """Errors of the runs ``of`` under its condition less those of ``base``, of the same prompt and noise."""

    def less(value: Callable[[Row], float]) -> Interval:
        return bootstrap_runs(np.mean, columns(*of, value) - columns(*base, value))

    def off(row: Row, name: str) -> float:
        return abs(row.fitted.get(name, math.nan) - row.true.get(name, math.nan))

    return {
        "path error, %": less(lambda row: 100 * row.path_error),
        "law residual, %": less(lambda row: 100 * row.law_residual),
        **{f"{name} error": less(lambda row, name=name: off(row, name)) for name in constants_in(of[0])},
    }


def _count(values: np.ndarray) -> Interval:
    """How many are known, on average over the runs."""
    known = float((~np.isnan(values)).sum(1).mean())
    return Interval(known, known, known)


def report(runs: Sequence[Run], conditions: Sequence[str]) -> dict[str, Table]:
    """All tables: over all clips, under the name "", and by constant."""
    names = constants_in(runs)
    return {"": overall(runs, conditions), **{name: of_constant(runs, conditions, name) for name in names}}


def write(file: Path, tables: Mapping[str, Table]) -> None:
    """Print tables of constants, each under its title, and write their numbers."""
    fine = ("rate", "restitution", *(title for title in tables if "less" in title))
    write_tables(file, tables, {name: f", {unit}" for name, unit in UNITS.items()}, dict.fromkeys(fine, 3))
