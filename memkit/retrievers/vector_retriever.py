"""What retrievers share that turn a query into a vector."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from memkit.retrievers.engines.protocol import VectorIndex
from memkit.retrievers.hits import ClipTable, Excluded, Query, Retriever


class VectorRetriever(Retriever[Query]):
    """A retriever by cosine. A subclass gives the clips with their vectors, and the vector of a query."""

    @abstractmethod
    def _current(self) -> tuple[ClipTable, VectorIndex]:
        """The clips there are now and their vectors, aligned."""

    @abstractmethod
    def _vector(self, query: Query) -> Float32[np.ndarray, " dim"]:
        """The unit vector of a query."""

    def _table(self) -> ClipTable:
        return self._current()[0]

    def _search(
        self, query: Query, k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        if not excluded.allowed.any():
            return np.empty(0, np.int64), np.empty(0)
        return self._current()[1].search(self._vector(query), k, excluded)

    def _best(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        ids = self._table().ids
        names = frozenset(ids[row] for row in np.flatnonzero(~allowed).tolist())
        return self._search(query, k, Excluded(names, frozenset(), allowed))
