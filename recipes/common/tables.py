"""Tables of measured rows, with 95 % intervals over items and, where there are several, over training runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from memkit.metrics import Interval
from recipes.common.results import plain

AnyRow = TypeVar("AnyRow")
Table = dict[str, dict[str, Interval]]
"""By condition, by measure."""


def columns(
    runs: Sequence[Mapping[tuple[str, str], AnyRow]], condition: str, value: Callable[[AnyRow], float]
) -> np.ndarray:
    """[runs, ids] of one condition; NaN where a run lacks it. Rows are by condition and id."""
    ids = list(dict.fromkeys(id for run in runs for _, id in run))
    return np.array([[value(run[condition, id]) if (condition, id) in run else math.nan for id in ids] for run in runs])


def markdown(table: Table, digits: int = 2) -> str:
    """One row a condition; an en dash where there is nothing to say."""
    measures = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row[measure], digits) for measure in measures) + " |")
    return "\n".join(lines)


def _cell(value: Interval, digits: int) -> str:
    if math.isnan(value.value):
        return "–"
    if value.low == value.high:
        return f"{value.value:.1f}"
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def write_tables(
    file: Path,
    tables: Mapping[str, Table],
    units: Mapping[str, str] | None = None,
    digits: Mapping[str, int] | None = None,
) -> None:
    """Print tables, each under its title ("" is "all") with its unit, and write their numbers as JSON."""
    for title, table in tables.items():
        unit = (units or {}).get(title, "")
        print(f"**{title or 'all'}{unit}**\n\n{markdown(table, (digits or {}).get(title, 2))}\n")
    numbers = {
        title or "all": {row: {name: value._asdict() for name, value in cells.items()} for row, cells in table.items()}
        for title, table in tables.items()
    }
    file.write_text(json.dumps(plain(numbers), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print(file)
