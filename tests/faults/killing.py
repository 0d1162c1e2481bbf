"""Interrupt writers at every operation and after any number of bytes; a reader finds the state before or after."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from random import Random

from tests.faults.damage import files_in
from tests.faults.interrupting import ERRORS, at_operation, kill, limit_bytes, refuse
from tests.faults.isolated import Found, isolated, isolated_all
from tests.faults.outcomes import HANG, HARMLESS, LEFTOVERS, LOST, RAW, TYPED, UNNAMED, Result
from tests.faults.writers import Writer

MOST = 400
"""Operations of a writer; more means that the harness counts something that does not end."""


class Killing:
    """One writer, its states before and after, and what comes of interruptions."""

    def __init__(self, writer: Writer, room: Path) -> None:
        self.writer, self.room = writer, room
        self.template, self.case = room / "before", room / "case"
        self.template.mkdir(parents=True)
        writer.before(self.template)
        self._fresh()
        self.before = isolated(self._read)
        done, self.after = isolated_all([self._act, self._read])
        if done.value is None or self.after.value is None or self.after == self.before:
            raise RuntimeError(f"{writer.name}: {done}, {self.after}")
        self.names = self._files()
        self.largest = max((os.path.getsize(self.case / name) for name in self.names), default=1)
        self.allowed = {_key(self.before), _key(self.after)}

    # -- kinds of interruption -------------------------------------------------------------------------------------

    def kills(self) -> Iterator[Result]:
        """A kill before every operation, until the writer ends by itself."""
        yield from takewhile(lambda result: result is not None, map(self.killed, range(MOST)))  # pyright: ignore

    def errors(self) -> Iterator[Result]:
        """The system's refusal of every operation."""
        yield from takewhile(lambda result: result is not None, map(self.refused, range(MOST)))  # pyright: ignore

    def killed(self, number: int) -> Result | None:
        """A kill before an operation, counted from 0; None where the writer has ended before."""
        found = self._interrupted(lambda: at_operation(self.case, number, kill))
        return None if found.value is not None else self._judged(found, f"killed before operation {number}")

    def refused(self, number: int) -> Result | None:
        """One of the system's errors at an operation; None where the writer has ended before."""
        name, reached = list(ERRORS)[number % len(ERRORS)], self.room / "reached"
        reached.unlink(missing_ok=True)

        def act() -> None:
            reached.touch()
            refuse(name)

        found = self._interrupted(lambda: at_operation(self.case, number, act))
        return self._judged(found, f"{name} at operation {number}") if reached.exists() else None

    def cuts(self, seed: str, count: int, kills: bool) -> Iterator[Result]:
        """Ends in the middle of a write, by a kill or as on a full disk, at random bytes."""
        random = Random(f"{self.writer.name}:{seed}")
        for _ in range(count):
            size = random.randrange(self.largest)
            found = self._interrupted(lambda size=size: limit_bytes(size, kills))
            yield self._judged(found, f"{'killed' if kills else 'refused'} beyond byte {size} of a file")

    # -- parts -----------------------------------------------------------------------------------------------------

    def _interrupted(self, arm: Callable[[], object]) -> Found:
        self._fresh()

        def run() -> None:
            arm()
            self.writer.act(self.case)

        return isolated(run)

    def _judged(self, found: Found, fault: str) -> Result:
        def result(outcome: str, detail: str) -> Result:
            return Result(self.writer.name, fault, outcome, detail)

        if found.death == "hang":
            return result(HANG, "the writer")
        if found.error and not found.typed:
            return result(RAW, found.error)
        if found.error and not any(name in found.error for name in (str(self.case), *self.names)):
            return result(UNNAMED, found.error)
        state, *rest = isolated_all([self._read, self._act, self._read])
        if _key(state) not in self.allowed:
            return result(
                LOST, f"neither the state before nor the one after: {state.error or state.death or 'another'}"
            )
        if found.value is not None and state != self.after and not found.said:
            return result(LOST, "it ended as if it had succeeded, and the state is the one before")
        if rest[0].value is None:
            return result(LOST, f"it cannot be done again: {rest[0].error or rest[0].death}")
        if _key(rest[-1]) != _key(self.after):
            return result(LOST, "done again, it does not give what it gives undisturbed")
        there, left = _key(state) == _key(self.after), self._files()
        if not there and len(left) > len(self.names):  # a stream's cache has one of two names
            return result(LEFTOVERS, f"done again, it leaves {sorted(left - self.names)} behind")
        return result(TYPED if found.error else HARMLESS, "the state " + ("after" if there else "before"))

    def _act(self) -> None:
        self.writer.act(self.case)

    def _read(self) -> object:
        return self.writer.state(self.case)

    def _fresh(self) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.template, self.case)

    def _files(self) -> set[str]:
        return {name for name in files_in(self.case) if not name.endswith(".lock")}


def _key(state: Found) -> str:
    """A state, or the error in its place: that there is nothing yet has many causes. Other errors are no state."""
    if state.value is not None:
        return state.value
    return "an error of memkit" if state.typed else f"no state: {state.error or state.death}"
