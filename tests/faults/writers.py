"""Something that memkit writes: the state before, the operation, and what a reader then finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Writer(NamedTuple):
    """An operation that must happen wholly or not at all, whatever ends it."""

    name: str
    before: Callable[[Path], object]
    """Prepare an empty folder."""
    act: Callable[[Path], object]
    """The operation."""
    state: Callable[[Path], object]
    """What a reader finds in the folder, as a value that `digest` takes; an error of memkit is a state too."""


def nothing(folder: Path) -> None:
    """An empty folder."""


def saves(name: str, make: Callable[[Path, int], object], use: Callable[[Path], object]) -> tuple[Writer, Writer]:
    """To save something for the first time, and over something else that was saved there."""
    first = Writer(f"{name}: first", nothing, lambda folder: make(folder, 1), use)
    return first, Writer(f"{name}: again", lambda folder: make(folder, 0), lambda folder: make(folder, 1), use)
