"""Exact search by FAISS, all vectors in memory: for small banks, and as the reference for the other engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from memkit.retrievers.engines.protocol import SavedIndex
from memkit.retrievers.saved_index import read_saved, write_saved
from memkit.retrievers.vectors import FlatVectors


@dataclass(frozen=True)
class Exact:
    """All vectors in memory, compared one by one; time and memory are proportional to the size of the bank."""

    is_database: ClassVar[bool] = False

    def empty(self, folder: Path, dim: int) -> FlatVectors:
        return FlatVectors.empty(dim)

    def read(self, folder: Path) -> SavedIndex | None:
        return read_saved(folder)

    def write(self, folder: Path, index: SavedIndex) -> None:
        write_saved(folder, index)
