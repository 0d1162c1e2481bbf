"""Tables of measured rows with 95 % confidence intervals over items and, where there are several, training runs.

A table is a set of measures (columns) of training runs: under several conditions, or of several variants under one
condition (`compare`), or the differences of the variants to one of them (`differences`).
"""

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
    """A column of a table: a statistic, over items and runs, of one value per measured row.

    ``value`` is a function of the row, which returns NaN where there is no value; or several functions, for a statistic
    of as many columns. With ``control``, they also get the row of the same id and run under that condition.
    """

    value: Callable[..., float] | tuple[Callable[..., float], ...]
    statistic: Callable[..., float] = np.mean
    control: str | None = None


def field(name: str, scale: float = 1.0, statistic: Callable[..., float] = np.mean) -> Measure:
    """The measure of one field of a row, times ``scale``."""
    return Measure(lambda row: scale * getattr(row, name), statistic)


def less(measure: Measure, condition: str) -> Measure:
    """The difference of a measure with one value to that under ``condition``, in pairs of the same id and run."""
    value: Any = measure.value
    return Measure(lambda row, other: value(row) - value(other), measure.statistic, condition)


def select(runs: Mapping[str, Sequence[Run]], keep: Callable[[Any], bool]) -> dict[str, list[Run]]:
    """The rows of each variant's runs for which ``keep(row)`` is True."""
    return {name: [{key: row for key, row in run.items() if keep(row)} for run in some] for name, some in runs.items()}


def _values(measure: Measure, runs: Sequence[Run], condition: str) -> np.ndarray:
    """The values per run and id, [functions, runs, ids]; NaN where a run has no such row."""
    ids = list(dict.fromkeys(id for run in runs for _, id in run))
    functions = measure.value if isinstance(measure.value, tuple) else (measure.value,)
    names = [condition] if measure.control is None else [condition, measure.control]

    def value(function: Callable[..., float], run: Run, id: str) -> float:
        rows = [run.get((name, id)) for name in names]
        return math.nan if any(row is None for row in rows) else function(*rows)

    return np.array([[[value(function, run, id) for id in ids] for run in runs] for function in functions])


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
    for name, measure in measures.items():
        found = _values(measure, runs, condition)
        if reference is not None:
            found = found - _values(measure, *reference)
        cells[name] = interval(measure.statistic, *found)
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


def differences(
    measures: Mapping[str, Measure], runs: Mapping[str, Sequence[Run]], condition: str, reference: str
) -> Table:
    """The differences of all other variants to the variant ``reference``, in pairs of the same id and run."""
    others = {name: some for name, some in runs.items() if name != reference}
    return compare(measures, others, condition, (runs[reference], condition))


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
