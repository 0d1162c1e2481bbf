"""The runs of the leaderboard, and the file of rows to which an interrupted command adds what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from memkit.errors import InputError
from memkit.probes import (
    MECHANISMS,
    PROBES,
    Probe,
    ProbeResult,
    ProbeSettings,
    make_probe,
    read_results,
    run_identity,
    run_probe,
    run_settings,
    write_results,
)
from recipes.leaderboard.cells import FURTHER, VARIANTS, WITH_DEPTH, Cell, mechanism_of
from recipes.leaderboard.claims import CLAIMS


@dataclass(frozen=True)
class Run:
    """One mechanism on one probe, with one seed."""

    probe: Probe[Any]
    mechanism: str
    seed: int
    settings: ProbeSettings

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of its row that say what is run."""
        return run_settings(mechanism_of(self.mechanism), self.probe, self.settings)

    @cached_property
    def identity(self) -> str:
        """All that its row follows from: see `ProbeResult.identity`."""
        return run_identity(self.probe.name, self.mechanism, self.seed, self.fields)

    def result(self, bases: Path, device: str) -> ProbeResult:
        """Train and measure."""
        build = mechanism_of(self.mechanism)
        return run_probe(
            build, self.probe, self.seed, self.settings, name=self.mechanism, folder=bases, device=device, progress=True
        )


def planned(
    probes: Sequence[str], mechanisms: Sequence[str], seeds: Sequence[int], settings: ProbeSettings
) -> list[Run]:
    """All runs of these probes, mechanisms and seeds: per seed, those of the table, of the claims alone, and of
    other papers' mechanisms.

    Raises `InputError` for an unknown name.
    """
    for kind, names, known in (("probe", probes, PROBES), ("mechanism", mechanisms, {**MECHANISMS, **VARIANTS})):
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"There is no {kind} {unknown[0]!r}; choose of {', '.join(known)}.")
    table = [(make_probe(probe), name) for name in MECHANISMS for probe in PROBES]
    claimed = [(cell.task(), cell.mechanism) for cell in _cells()]
    runs = {}
    for seed in seeds:
        for probe, name in (*table, *claimed):
            if probe.name in probes and name in mechanisms:
                run = Run(probe, name, seed, settings)
                runs.setdefault(run.identity, run)
    return list(runs.values())


def _cells() -> Iterator[Cell]:
    for claim in CLAIMS:
        yield from (claim.better, claim.than)
    yield from (*WITH_DEPTH, *FURTHER)


class Rows:
    """The rows of a leaderboard.json, written after each run.

    Raises:
        InputError: the file has a row that was measured in another way than the run of the same name, seed and knobs;
            such rows would be compared.
        FileError: the file is damaged or cannot be written.
    """

    def __init__(self, file: Path, runs: Sequence[Run] = ()) -> None:
        self.file = file
        for row in self.read():
            for run in runs:
                _check_comparable(file, row, run)

    def read(self) -> list[ProbeResult]:
        """All rows, in the order in which they were measured."""
        return read_results(self.file) if self.file.exists() else []

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """The runs that have no row yet."""
        known = {row.identity for row in self.read()}
        return [run for run in runs if run.identity not in known]

    def add(self, row: ProbeResult) -> None:
        """Add a row, also where other processes do."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_name(f".{self.file.name}.lock")):
            write_results(self.file, [*self.read(), row])


def _check_comparable(file: Path, row: ProbeResult, run: Run) -> None:
    if row.probe != run.probe.name:
        return
    now, names = run.fields, ["settings"]
    if row.mechanism == run.mechanism and row.knobs == now["knobs"]:
        names += ["ranges", "options"]
    for name in names:
        before: dict[str, Any] = getattr(row, name)
        changed = [key for key in {**before, **now[name]} if before.get(key) != now[name].get(key)]
        if changed:
            what = ", ".join(f"{key} ({before.get(key)} before, {now[name].get(key)} now)" for key in changed)
            raise InputError(
                f"{file} has rows of {row.probe} that were measured with other {name}: {what}; give another --out."
            )
