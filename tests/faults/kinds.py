"""A kind of file that memkit reads: how to make one, and everything that a reader gets from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tests.faults.damage import BYTES, files_in

CONTENT = frozenset({"flip", "scatter", "zero", "edit", "swap"})
"""Ways that leave the length of a file as it was, or put one valid file in the place of another."""
ANY = frozenset({*BYTES, "edit", "swap"}) - {"empty"}
"""Also those that change its length; what is missing or empty shows in any format."""


class FileKind(NamedTuple):
    """Files in a folder, and their use."""

    name: str
    make: Callable[[Path, int], object]
    """Write the files into an empty folder; another seed gives others."""
    use: Callable[[Path], object]
    """All that a reader gets from the folder, as a value that `digest` takes."""
    files: Collection[str] = ("*",)
    """Patterns of the files to damage."""
    blind: Mapping[str, Collection[str]] = {}
    """By pattern of files, the ways of damage after which nothing in the format tells that a value is another one."""
    why_blind: str = ""
    """The reason, for the page."""

    def targets(self, folder: Path) -> list[str]:
        names = (name for name in files_in(folder) if not name.endswith(".lock"))
        return [name for name in names if any(fnmatch(name, pattern) for pattern in self.files)]

    def is_blind(self, file: str, way: str) -> bool:
        return way == "edit and seal" or any(fnmatch(file, p) and way in ways for p, ways in self.blind.items())
