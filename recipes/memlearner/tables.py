"""Tables of what was measured, by rooms without people and with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memkit.metrics import Interval, bootstrap_runs
from recipes.common.tables import Table, columns
from recipes.memlearner.comparisons import COMPARISONS, Run, has_people

BESIDE = ("none", "learned", "window")
"""What others are held against: no memory, the queries, and in a claim without either the newest frames."""


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """By rooms, methods, each of as many runs: both comparisons, and what each method has more than "none" and more
    than "learned", in pairs of the same room and noise.

    "attention" has, for methods with queries, the share of these on context, and that of the chunk on these.
    """
    out: dict[str, Table] = {}
    references = [name for name in BESIDE if name in runs][:2]
    for title, people in (("rooms without people", False), ("rooms with people", True)):
        every = {name: [_of(run, people) for run in some] for name, some in runs.items()}
        first = next(iter(every.values()))
        controls = {name: [_control(run, name) for run in first] for name in ("autoencoder", "still")}
        out[title] = {name: _measures(some) for name, some in {**every, **controls}.items()}
        for reference in references:
            others = {name: some for name, some in every.items() if name != reference}
            less = every[reference]
            out[f"{title}: more than {reference}"] = {name: _measures(some, less) for name, some in others.items()}
    watched = {name: _attention(some) for name, some in runs.items()}
    watched = {name: cells for name, cells in watched.items() if not np.isnan(next(iter(cells.values())).value)}
    return {name: table for name, table in out.items() if table} | ({"attention": watched} if watched else {})


def _of(run: Run, people: bool) -> Run:
    return {key: row for key, row in run.items() if has_people(row.id) == people}


def _control(run: Run, name: str) -> Run:
    """The rows of a control, by the comparison alone."""
    return {(c.split(" / ")[0], id): row for (c, id), row in run.items() if c.endswith(f" / {name}")}


def _values(runs: Sequence[Run], comparison: str, field: str) -> np.ndarray:
    """[runs, rooms] of one field."""
    return columns(runs, comparison, lambda row: getattr(row, field))


def _measures(runs: Sequence[Run], less: Sequence[Run] | None = None) -> dict[str, Any]:
    """Each measure, or what it is more than in as many other runs."""
    cells: dict[str, Any] = {}
    for comparison in COMPARISONS:
        for field, name in (("psnr", f"{comparison}, dB"), ("again", f"{comparison}, seen before, dB")):
            value = _values(runs, comparison, field)
            if less is not None:
                value = value - _values(less, comparison, field)
            cells[name] = bootstrap_runs(np.mean, value)
    return cells


def _attention(runs: Sequence[Run]) -> dict[str, Interval]:
    cells: dict[str, Interval] = {}
    for comparison in COMPARISONS:
        for field, name in (("attention", "of the queries on context"), ("followed", "of the chunk on the queries")):
            value = _values(runs, comparison, field)
            cells[f"{comparison}, {name}"] = bootstrap_runs(np.mean, value)
    return cells
