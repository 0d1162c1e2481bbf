"""Tables of what was measured: what recovers, by kind of interruption, and what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memkit.metrics import bootstrap_runs
from recipes.remind.scores import Row
from recipes.tables import Table, columns

Run = dict[tuple[str, str], Row]
PLAIN_CONTROLS = ("plain / base, bidirectional", "plain / base")
CONTROLS = ("recovery / autoencoder", "recovery / frozen", "recovery / base", "recovery / base, bidirectional")
MEASURES = {
    "evolution, pixels": "evolution",
    "evolution, state": "state_evolution",
    "state error, % of the frame": "state_error",
    "state found, %": "found",
    "PSNR, dB": "psnr",
}


def cells(runs: Sequence[Run], condition: str, by: str | None = None, less: Sequence[Run] | None = None) -> dict:
    """The measures of one condition over runs, of one kind of interruption or of all; ``less`` those of other runs."""
    out = {}
    for name, field in MEASURES.items():
        scale = 100.0 if name.endswith(("%", "frame")) else 1.0
        value = scale * columns([_of(run, by) for run in runs], condition, lambda row, field=field: getattr(row, field))
        if less is not None:
            value = value - scale * columns(
                [_of(run, by) for run in less], condition, lambda row, field=field: getattr(row, field)
            )
        out[name] = bootstrap_runs(np.mean, value)
    return out


def _of(run: Run, by: str | None) -> Run:
    """The rows of clips that one kind interrupts; a row of an undisturbed clip belongs to all kinds."""
    return {key: row for key, row in run.items() if by is None or row.by == by}


def kinds_of(runs: Sequence[Run]) -> list[str]:
    """Of interruptions, in the order of the bank."""
    return list(dict.fromkeys(row.by for run in runs for row in run.values() if row.by != "nothing"))


def tables(named: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """What recovers, in all and by kind of interruption, and what was forgotten, by the name of runs."""
    first = next(iter(named.values()))
    out: dict[str, Table] = {}
    for title, by in (("recovery", None), *((f"recovery: {kind}", kind) for kind in kinds_of(first))):
        out[title] = {name: cells(runs, "recovery", by) for name, runs in named.items()}
        out[title] |= {c.removeprefix("recovery / "): cells(first[:1], c, by) for c in CONTROLS}
    out["plain image-to-video"] = plain_table(named)
    return out


def plain_table(named: Mapping[str, Sequence[Run]]) -> Table:
    """Undisturbed clips, before and after, streamed and bidirectional."""
    first = next(iter(named.values()))
    out = {c.removeprefix("plain / "): cells(first[:1], c) for c in PLAIN_CONTROLS}
    for name, runs in named.items():
        out[name] = cells(runs, "plain")
        out[f"{name}, bidirectional"] = cells(runs, "plain / bidirectional")
    return out
