"""Tables of what was measured, by rooms without people and with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memkit.metrics import Interval, bootstrap_runs
from recipes.memlearner.comparisons import COMPARISONS, Run, has_people
from recipes.tables import Table, columns


def tables(runs: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """By rooms, methods, each of as many runs: both comparisons, with the difference to "none", if it is one of them,
    in pairs of the same room and noise.

    "attention" has, for methods with queries, the share of these on context, and that of the chunk on these.
    """
    out: dict[str, Table] = {}
    for title, people in (("rooms without people", False), ("rooms with people", True)):
        out[title] = {}
        none = None if "none" not in runs else [_of(run, people) for run in runs["none"]]
        for name, some in runs.items():
            out[title][name] = _measures([_of(run, people) for run in some], none)
        first = next(iter(runs.values()))
        for control in ("autoencoder", "still"):
            named = [
                {(c.split(" / ")[0], i): r for (c, i), r in _of(run, people).items() if control in c} for run in first
            ]
            out[title][control] = _measures(named, none)
    watched = {name: _attention(some) for name, some in runs.items()}
    watched = {name: cells for name, cells in watched.items() if not np.isnan(next(iter(cells.values())).value)}
    return out | ({"attention": watched} if watched else {})


def _of(run: Run, people: bool) -> Run:
    return {key: row for key, row in run.items() if has_people(row.id) == people}


def _measures(runs: Sequence[Run], none: Sequence[Run] | None) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for comparison, what in (("truth", "psnr"), ("truth", "again"), ("revisit", "psnr"), ("revisit", "again")):
        value = columns(runs, comparison, lambda row, what=what: getattr(row, what))
        name = {"psnr": f"{comparison}, dB", "again": f"{comparison}, seen before, dB"}[what]
        cells[name] = bootstrap_runs(np.mean, value)
        if none is not None and what == "again":
            base = columns(none, comparison, lambda row, what=what: getattr(row, what))
            cells[f"{name}, less none's"] = bootstrap_runs(np.mean, value - base)
    return cells


def _attention(runs: Sequence[Run]) -> dict[str, Interval]:
    cells: dict[str, Interval] = {}
    for comparison in COMPARISONS:
        for field, name in (("attention", "of the queries on context"), ("followed", "of the chunk on the queries")):
            value = columns(runs, comparison, lambda row, field=field: getattr(row, field))
            cells[f"{comparison}, {name}"] = bootstrap_runs(np.mean, value)
    return cells
