"""What retrieval by vectors needs of a search engine: two small protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int

from memkit.retrievers.hits import Excluded


@runtime_checkable
class VectorIndex(Protocol):
    """Unit vectors, one row per clip, in the order in which clips were added."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def add(self, vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str], sources: Sequence[str | None]) -> None:
        """Append rows with the ids and sources of their clips."""

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """The vectors of some rows, as they were added."""
        ...

    def search(
        self, query: Float32[np.ndarray, " dim"], k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """Rows and cosines of the ``k`` nearest vectors, best first, equal ones in row order.

        Nothing that is excluded is returned, and fewer than ``k`` rows only if no others are left. The cosines are
        exact, products in float64; an approximate engine may miss a near vector, at a rate that it states.
        """
        ...


class SavedIndex(NamedTuple):
    """Vectors of the first clips of a bank, and what they depend on."""

    settings: dict[str, Any]
    """What the vectors depend on besides the clips."""
    fingerprint: str
    """That of the bank at the time of the save."""
    contents: str
    """Digest of the ids and contents of the clips."""
    vectors: VectorIndex


@runtime_checkable
class Engine(Protocol):
    """Where the vectors of a bank are kept and how they are searched. ``folder`` is the index's own in the bank."""

    is_database: ClassVar[bool]
    """Whether ids and sources are stored with the vectors, where other processes may see and change them."""

    def empty(self, folder: Path, dim: int) -> VectorIndex:
        """A new index without rows, in place of one that there may be.

        Raises:
            InputError: the place holds something that is no index of memkit, which stays as it is.
            MemkitError: the engine's library is not installed.
        """
        ...

    def read(self, folder: Path) -> SavedIndex | None:
        """What was saved; None if nothing was.

        Raises:
            InputError: it is damaged or of another format, and is built anew.
            BankError: a database outside of the bank cannot be used, which is left as it is.
        """
        ...

    def write(self, folder: Path, index: SavedIndex) -> None:
        """Save an index of this engine with what it depends on; whole, or as before.

        Raises:
            FileError: it cannot be written.
        """
        ...
