"""A study: variants of a training run, each trained with several seeds, measured, and compared in tables."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from memkit.evaluation.tables import NO_UNITS, Table, two, write_tables
from memkit.training.command_line import TRAINS, report_done

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Config = TypeVar("Config", bound=Any)


@dataclass(frozen=True)
class StudyFlags:
    """Command-line flags of every study."""

    shows: ClassVar[tuple[type, ...]] = TRAINS
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the training runs, one run per seed and variant."""
    jobs: int = 1
    """Number of runs to train at once, each in a process with one thread."""


@dataclass(frozen=True)
class Study(Generic[Config, Result]):
    """What is compared, how a run is measured, and how the results are tabulated.

    ``measure(config, conditions)`` trains the run of ``config`` as far as it is not trained yet, and measures what is
    missing. Runs lie below ``base.out`` and are shared by all studies there that have a variant of the same name, so a
    study that was stopped continues where it was.
    """

    base: Config
    """Settings of all runs; its ``out`` has the banks."""
    variants: Mapping[str, Mapping[str, Any]]
    """The settings in which each variant differs, by its name."""
    measure: Callable[[Config, Sequence[Any]], Result]
    tables: Callable[[dict[str, list[Result]]], Mapping[str, Table]]
    """From the results of each variant, one per seed, the tables by title."""
    conditions: Sequence[str] = ()
    """Conditions under which each run is measured."""

    def configs(self, seeds: Sequence[int]) -> list[Config]:
        """The settings of all runs, variant by variant."""
        return [run_config(self.base, name, changes, seed) for name, changes in self.variants.items() for seed in seeds]

    def result(self, config: Config) -> Result:
        """Train and measure what is missing of one run."""
        return self.measure(config, self.conditions)

    def results(self, seeds: Sequence[int], jobs: int = 1) -> dict[str, list[Result]]:
        """Train and measure what is missing; the results of each variant, one per seed."""
        results = parallel_map(self.result, self.configs(seeds), jobs)
        return {name: results[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(self.variants)}

    def run(
        self,
        name: str,
        flags: StudyFlags,
        units: Mapping[str, str] = NO_UNITS,
        digits: Callable[[str], int] = two,
        next_command: str | None = None,
    ) -> int:
        """Print the tables and write them to OUT/``name``.json; the exit code. See `write_tables` for the format."""
        file = self.base.out / f"{name}.json"
        write_tables(file, self.tables(self.results(flags.seeds, flags.jobs)), units, digits)
        report_done(file, next_command)
        return 0


def run_config(base: Config, name: str, changes: Mapping[str, Any], seed: int) -> Config:
    """The settings of one run of a variant, in a folder of its own below ``base.out``, which has the banks."""
    folder: Path = base.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    return replace(base, **changes, seed=seed, banks=base.out, out=folder)


def parallel_map(function: Callable[[Argument], Result], arguments: Sequence[Argument], jobs: int) -> list[Result]:
    """``function`` of each argument, in order; with more than one job, in as many processes of one thread each.

    The processes end when this one does, however it ends: a command that was killed must not go on training.
    """
    if jobs == 1:
        return [function(argument) for argument in arguments]
    with ProcessPoolExecutor(jobs, mp_context=_context(), initializer=_begin) as pool:
        return list(pool.map(function, arguments))


def _context() -> multiprocessing.context.BaseContext:
    """New processes without the threads and locks of this one; where the system can, their libraries, which take ten
    seconds to import, are imported once for all of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _begin() -> None:
    torch.set_num_threads(1)
    parent = os.getppid()  # this command, or the server of its processes, which ends with it

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
