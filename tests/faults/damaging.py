"""Damage files of a kind at random places, use them, and compare with what the whole files give."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from tests.faults.damage import WAYS, Damage, damage
from tests.faults.isolated import Found, isolated, isolated_all
from tests.faults.kinds import FileKind
from tests.faults.outcomes import HANG, HARMLESS, LOST, RAW, REPAIRED, SILENT, TYPED, UNKNOWABLE, UNNAMED, Result


class Damaging:
    """The files of one kind, made once, and what comes of damage to copies of them."""

    def __init__(self, kind: FileKind, room: Path) -> None:
        self.kind, self.room = kind, room
        self.whole, self.other, self.case = room / "whole", room / "other", room / "case"
        for seed, folder in enumerate((self.whole, self.other)):
            folder.mkdir(parents=True)
            kind.make(folder, seed)
        self.want, again = isolated_all([partial(kind.use, self.whole)] * 2)
        if self.want.value is None:
            raise RuntimeError(f"the whole files cannot be used: {self.want}")
        if again.value != self.want.value:
            raise RuntimeError("two uses of the same files differ")

    def results(self, seed: str) -> Iterator[Result]:
        """One result for each way of damage that applies."""
        for way in WAYS:
            if (result := self.result(f"{seed}:{way}", way)) is not None:
                yield result

    def result(self, seed: str, way: str) -> Result | None:
        """One damage; None where the way changes nothing in the file that was drawn."""
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.whole, self.case)
        random = Random(f"{self.kind.name}:{seed}")
        done = damage(self.case, self.other, self.kind.targets(self.whole), way, random)
        if done is None:
            return None
        found = self._used(self.case)
        outcome, detail = judged(found, self.want, partial(self.kind.is_blind, done.file, done.way), done, self.case)
        if outcome in (TYPED, REPAIRED, HARMLESS) and self._lost(done):
            outcome, detail = LOST, f"with {done.file} restored, other files are not as before; {detail}"
        return Result(self.kind.name, f"{done.file}: {done.what} (seed {seed})", outcome, detail)

    def _used(self, folder: Path) -> Found:
        return isolated(partial(self.kind.use, folder))

    def _lost(self, done: Damage) -> bool:
        """Whether using the damaged folder has changed the files that were whole."""
        names = [name for name in self.kind.targets(self.whole) if name != done.file]
        return any(
            not (self.case / name).is_file() or (self.case / name).read_bytes() != (self.whole / name).read_bytes()
            for name in names
        ) and not self._restored(done)

    def _restored(self, done: Damage) -> bool:
        shutil.copyfile(self.whole / done.file, self.case / done.file)
        return self._used(self.case).value == self.want.value


def judged(found: Found, want: Found, is_blind: Callable[[], bool], done: Damage, folder: Path) -> tuple[str, str]:
    """The outcome, and what there is to say about it."""
    if found.death:
        return (HANG if found.death == "hang" else RAW), found.death
    if found.error:
        if not found.typed:
            return RAW, found.error
        named = Path(done.file).name in found.error or str(folder) in found.error
        return (TYPED if named else UNNAMED), found.error
    if found.value == want.value:
        return (REPAIRED if found.said else HARMLESS), found.said
    if found.said:
        return REPAIRED, found.said
    return (UNKNOWABLE if is_blind() else SILENT), ""
