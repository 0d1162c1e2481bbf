"""Tables of what was measured: what recovers, by kind of interruption, and what was forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memkit.metrics import Interval, bootstrap_runs
from recipes.common.tables import Table, columns
from recipes.remind.scores import Row

Run = dict[tuple[str, str], Row]
RESAMPLES = 2000  # of each interval's bootstrap
FORGETFUL = "recovery / without the past"
PLAIN_CONTROLS = ("plain / base, bidirectional", "plain / base")
CONTROLS = ("recovery / autoencoder", "recovery / frozen", "recovery / base", "recovery / base, bidirectional")


class Measure(NamedTuple):
    """A column: a field of a row, in what unit, and which statistic of it over clips."""

    field: str
    scale: float = 1.0
    statistic: Callable[..., float] = np.mean


MEASURES = {
    # medians: where a process hardly moved while it was hidden, a score divides by next to nothing
    "evolution, pixels (median)": Measure("evolution", statistic=np.median),
    "evolution, state (median)": Measure("state_evolution", statistic=np.median),
    "state error, % of the frame": Measure("state_error", 100.0),
    "state found, %": Measure("found", 100.0),
    "PSNR, dB": Measure("psnr"),
}
ATTENTION = {
    "on what was seen before, %": Measure("attends_before", 100.0),
    "on the newest chunk, %": Measure("attends_newest", 100.0),
    "on the same view, %": Measure("attends_mirror", 100.0),
}


def cells(
    runs: Sequence[Run],
    condition: str,
    by: str | None = None,
    less: tuple[Sequence[Run], str] | None = None,
    measures: Mapping[str, Measure] = MEASURES,
) -> dict[str, Interval]:
    """The measures of one condition over runs, of one kind of interruption or of all.

    With ``less``, other runs and their condition, what a clip has more than there: as many runs, or one for all.
    """
    out = {}
    for name, measure in measures.items():
        value = _values(runs, condition, by, measure)
        if less is not None:
            value = value - _values(less[0], less[1], by, measure)
        out[name] = bootstrap_runs(measure.statistic, value, resamples=RESAMPLES)
    return out


def _values(runs: Sequence[Run], condition: str, by: str | None, measure: Measure) -> np.ndarray:
    """[runs, clips]."""
    some = [_of(run, by) for run in runs]
    return measure.scale * columns(some, condition, lambda row: getattr(row, measure.field))


def _of(run: Run, by: str | None) -> Run:
    """The rows of clips that one kind interrupts; a row of an undisturbed clip belongs to all kinds."""
    return {key: row for key, row in run.items() if by is None or row.by == by}


def kinds_of(runs: Sequence[Run]) -> list[str]:
    """Of interruptions, in the order of the bank."""
    return list(dict.fromkeys(row.by for run in runs for row in run.values() if row.by != "nothing"))


def tables(named: Mapping[str, Sequence[Run]]) -> dict[str, Table]:
    """What recovers, in all and by kind of interruption, where it looks, and what was forgotten; by name of runs."""
    first = next(iter(named.values()))
    out = {"recovery": recovery_table(named)}
    out |= {f"recovery: {kind}": recovery_table(named, kind) for kind in kinds_of(first)}
    looks = {name: cells(runs, "recovery", measures=ATTENTION) for name, runs in named.items()}
    out["attention"] = looks | {"base": cells(first[:1], "recovery / base", measures=ATTENTION)}
    out["plain image-to-video"] = plain_table(named)
    return out


def recovery_less_base(named: Mapping[str, Sequence[Run]]) -> Table:
    """What runs have more than the model that they started from, on the same clips with the same noise."""
    less = (next(iter(named.values()))[:1], "recovery / base")
    return {name: cells(runs, "recovery", less=less) for name, runs in named.items()}


def recovery_less_forgetful(named: Mapping[str, Sequence[Run]]) -> Table:
    """What the frames from before the interruption bring a run."""
    return {name: cells(runs, "recovery", less=(runs, FORGETFUL)) for name, runs in named.items()}


def plain_less_base(named: Mapping[str, Sequence[Run]]) -> Table:
    """The same of undisturbed clips, streamed and bidirectional: what was forgotten is below 0 in PSNR."""
    base, out = next(iter(named.values()))[:1], {}
    for name, runs in named.items():
        out[name] = cells(runs, "plain", less=(base, "plain / base"))
        bidirectional = (base, "plain / base, bidirectional")
        out[f"{name}, bidirectional"] = cells(runs, "plain / bidirectional", less=bidirectional)
    return out


def recovery_table(named: Mapping[str, Sequence[Run]], by: str | None = None) -> Table:
    """Runs beside the controls, for one kind of interruption or all."""
    first = next(iter(named.values()))
    mine = {name: cells(runs, "recovery", by) for name, runs in named.items()}
    for name, runs in named.items():
        if any(condition == FORGETFUL for condition, _ in runs[0]):
            mine[f"{name}, without the past"] = cells(runs, FORGETFUL, by)
    return mine | {c.removeprefix("recovery / "): cells(first[:1], c, by) for c in CONTROLS}


def plain_table(named: Mapping[str, Sequence[Run]]) -> Table:
    """Undisturbed clips, before and after, streamed and bidirectional."""
    first = next(iter(named.values()))
    out = {c.removeprefix("plain / "): cells(first[:1], c) for c in PLAIN_CONTROLS}
    for name, runs in named.items():
        out[name] = cells(runs, "plain")
        out[f"{name}, bidirectional"] = cells(runs, "plain / bidirectional")
    return out
