"""All faults as tasks for several processes."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.faults import inputs
from tests.faults.all_inputs import APIS
from tests.faults.all_kinds import KINDS
from tests.faults.all_writers import WRITERS
from tests.faults.damaging import Damaging
from tests.faults.killing import Killing
from tests.faults.outcomes import RAW, Result

DAMAGE, KILLS, ERRORS, INPUTS = "damaged files", "kills", "refusals of the disk", "bad inputs"
PARTS = (DAMAGE, KILLS, ERRORS, INPUTS)
SAMPLE = 6
CUTS = 6
"""Interruptions in the middle of bytes per round of a writer."""


class Task(NamedTuple):
    """One round of a part and a kind; each round draws other places."""

    part: str
    name: str
    round: int = 0
    few: bool = False
    """Of bad inputs, a sample."""


def names_of(part: str) -> list[str]:
    """The kinds of a part, which are the rows of its table."""
    named = {DAMAGE: KINDS, KILLS: WRITERS, ERRORS: WRITERS, INPUTS: APIS}[part]
    return [each.name for each in named]


def tasks_of(parts: Sequence[str], only: str = "") -> list[Task]:
    """The first round of each kind whose name contains ``only``."""
    return [Task(part, name) for part in parts for name in names_of(part) if only in name]


def sample(seed: int) -> list[Task]:
    """A few bad inputs of some calls, for a run of seconds."""
    return [Task(INPUTS, name, few=True) for name in Random(seed).sample(names_of(INPUTS), SAMPLE)]


def _few(seed: str) -> Callable[[list[Any]], list[Any]]:
    return lambda changes: Random(seed).sample(changes, min(SAMPLE, len(changes)))


def run_all(tasks: Sequence[Task], seed: int, jobs: int, until: float) -> Iterator[tuple[Task, list[Result]]]:
    """All tasks, and then more rounds of them until the time ``until`` of `time.monotonic`."""
    drawn = [task for task in tasks if task.part != INPUTS]  # bad inputs are the same in every round
    later = (task._replace(round=n) for n in (itertools.count(1) if drawn else ()) for task in drawn)
    waiting = itertools.chain(tasks, itertools.takewhile(lambda _: time.monotonic() < until, later))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        running: dict[Future[list[Result]], Task] = {}
        while True:
            for task in itertools.islice(waiting, jobs - len(running)):
                running[pool.submit(run, task, seed)] = task
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()


def run(task: Task, seed: int) -> list[Result]:
    """The results of a task; where a kind does not work without a fault, that is the result."""
    with tempfile.TemporaryDirectory(prefix="faults-") as room:
        try:
            return list(_results(task, f"{seed}:{task.round}", Path(room)))
        except Exception as error:
            return [Result(task.name, "without a fault", RAW, f"{type(error).__name__}: {error}")]


def _results(task: Task, seed: str, room: Path) -> Iterator[Result]:
    if task.part == DAMAGE:
        yield from Damaging(_named(KINDS, task.name), room).results(seed)
    elif task.part == INPUTS:
        yield from inputs.results(_named(APIS, task.name), _few(seed) if task.few else list)
    else:
        writer, kills = Killing(_named(WRITERS, task.name), room), task.part == KILLS
        if not task.round:
            yield from writer.kills() if kills else writer.errors()
        yield from writer.cuts(seed, CUTS, kills)


def _named(items: Sequence[Any], name: str) -> Any:
    return next(item for item in items if item.name == name)
