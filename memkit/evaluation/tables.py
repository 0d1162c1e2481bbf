"""Tables of measured rows with 95 % confidence intervals over items and, where there are several, training runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from memkit.files.json_files import write_json
from memkit.files.non_finite import to_json
from memkit.metrics.bootstrap import Interval, bootstrap_runs

Run = Mapping[tuple[str, str], Any]
"""Rows of one training run, by condition and id."""
Cells = dict[str, Interval]
"""One row of a table, by column."""
Table = dict[str, Cells]


NO_UNITS: Mapping[str, str] = MappingProxyType({})
RESAMPLES = 2000  # of each interval's bootstrap


class Measure(NamedTuple):
    """A column of a table: a statistic, over items and runs, of one value per measured row (NaN where it has none)."""

    value: Callable[[Any], float]
    statistic: Callable[..., float] = np.mean


def field(name: str, scale: float = 1.0, statistic: Callable[..., float] = np.mean) -> Measure:
    """The measure of one field of a row, times ``scale``."""
    return Measure(lambda row: scale * getattr(row, name), statistic)


def values(runs: Sequence[Run], condition: str, value: Callable[[Any], float]) -> np.ndarray:
    """One value per run and id under one condition, [runs, ids]; NaN where a run has no such row."""
    ids = list(dict.fromkeys(id for run in runs for _, id in run))
    return np.array([[value(run[condition, id]) if (condition, id) in run else math.nan for id in ids] for run in runs])


def intervals(
    measures: Mapping[str, Measure],
    runs: Sequence[Run],
    condition: str,
    reference: tuple[Sequence[Run], str] | None = None,
) -> Cells:
    """Each measure of runs under one condition.

    With ``reference`` (other runs, as many or only one, and their condition), the differences to it instead, in pairs
    of the same id and run.
    """
    cells = {}
    for name, (value, statistic) in measures.items():
        found = values(runs, condition, value)
        if reference is not None:
            found = found - values(*reference, value)
        cells[name] = interval(statistic, found)
    return cells


def compare(
    measures: Mapping[str, Measure],
    runs: Mapping[str, Sequence[Run]],
    condition: str,
    reference: tuple[Sequence[Run], str] | str | None = None,
) -> Table:
    """A row of `intervals` per variant; as ``reference``, a condition alone is one of the same runs."""
    return {
        name: intervals(measures, some, condition, (some, reference) if isinstance(reference, str) else reference)
        for name, some in runs.items()
    }


def interval(statistic: Callable[..., float], *columns: np.ndarray) -> Interval:
    """A statistic of columns [runs, ids], and its 95 % interval; see `memkit.metrics.bootstrap_runs`."""
    return bootstrap_runs(statistic, *columns, resamples=RESAMPLES)


def exactly(value: float) -> Interval:
    """A number without uncertainty, as a cell."""
    return Interval(value, value, value)


def to_markdown(table: Table, digits: int = 2) -> str:
    """A Markdown table; a cell that could not be measured is an en dash."""
    columns = list(next(iter(table.values())))
    rows = [["", *map(_heading, columns)], ["---"] * (len(columns) + 1)]
    rows += [[name, *(_cell(cells[column], digits) for column in columns)] for name, cells in table.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def two(title: str) -> int:
    """Decimal places of every table, where a recipe has no others."""
    return 2


def write_tables(
    file: Path, tables: Mapping[str, Table], units: Mapping[str, str] = NO_UNITS, digits: Callable[[str], int] = two
) -> None:
    """Print each table below its title (of "", "all") and its unit, and write all numbers to a JSON file.

    ``units`` and ``digits`` (decimal places) are by title.
    """
    for title, table in tables.items():
        unit = f", {units[title]}" if title in units else ""
        print(f"**{_heading(title) or 'all'}{unit}**\n\n{to_markdown(table, digits(title))}\n")
    numbers = {title or "all": table_to_json(table) for title, table in tables.items()}
    write_json(file, to_json(numbers))


def table_to_json(table: Table) -> dict[str, Any]:
    """The numbers of a table: value, low and high by row and column."""
    return {row: {name: value._asdict() for name, value in cells.items()} for row, cells in table.items()}


def _heading(name: str) -> str:
    """What is printed for a key: "less none" and "more than none" are differences."""
    return re.sub(r"(?:\bless|\bmore than) (none(?:'s)?$)?", lambda m: f"Δ vs. {'no memory' if m[1] else ''}", name)


def _cell(value: Interval, digits: int) -> str:
    if math.isnan(value.value):
        return "–"
    if value.low == value.high:
        return f"{value.value:.1f}"
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
