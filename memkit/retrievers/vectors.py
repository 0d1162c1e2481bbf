"""Exact search over unit vectors, in memory and in a FAISS file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from memkit.errors import InputError, MemkitError
from memkit.retrievers.hits import Excluded

FAISS_ERROR = 1e-5  # bound on the float32 rounding error of a product of unit vectors


class FlatVectors:
    """Unit vectors in memory, in a FAISS `IndexFlatIP`; the search is exact and does not depend on FAISS's rounding."""

    def __init__(self, index: Any) -> None:
        self.faiss = index

    @staticmethod
    def empty(dim: int) -> FlatVectors:
        return FlatVectors(import_faiss().IndexFlatIP(dim))

    @staticmethod
    def of(vectors: np.ndarray, source: str | os.PathLike[str]) -> FlatVectors:
        """An index of ``vectors`` [rows, dim]; `InputError`, naming ``source``, unless they are float32 and unit."""
        if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.shape[1]:
            raise InputError(f"{source} holds {vectors.dtype} {vectors.shape}, not float32 vectors; build it anew.")
        index = FlatVectors.empty(vectors.shape[1])
        index.add(vectors)
        index.check_unit(source)
        return index

    def __len__(self) -> int:
        return self.faiss.ntotal

    @property
    def dim(self) -> int:
        return self.faiss.d

    def add(
        self,
        vectors: Float32[np.ndarray, "rows dim"],
        ids: Sequence[str] = (),
        sources: Sequence[str | None] = (),
    ) -> None:
        """Append rows; ids and sources are not kept, as a query comes with the rows that it may return."""
        self.faiss.add(np.ascontiguousarray(vectors))

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        return self.faiss.reconstruct_batch(rows)

    def all(self) -> Float32[np.ndarray, "rows dim"]:
        """The vectors."""
        return self.faiss.reconstruct_n(0, len(self))

    def check_unit(self, source: str | os.PathLike[str]) -> None:
        """Raises `InputError`, which names ``source``, unless all vectors have unit length."""
        for start in range(0, len(self), 65536):
            if not are_unit(self.rows(np.arange(start, min(len(self), start + 65536)))).all():
                raise InputError(
                    f"The FAISS index {source} has vectors that are not of unit length; normalise and rebuild it."
                )

    def search(
        self, query: Float32[np.ndarray, " dim"], k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """Rows and cosines of the ``k`` nearest allowed vectors, best first, equal ones in row order."""
        only = _only(excluded.allowed)

        def propose(ask: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            proposed, rows = self.faiss.search(query[None], ask, params=only)
            return rows[0], proposed[0], self.rows(rows[0])

        return nearest(query, k, int(excluded.allowed.sum()), propose)


Proposals = tuple[Int[np.ndarray, " n"], Float32[np.ndarray, " n"], Float32[np.ndarray, "n dim"]]


def nearest(
    query: Float32[np.ndarray, " dim"], k: int, left: int, propose: Callable[[int], Proposals]
) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
    """Rows and cosines of the ``k`` nearest of ``left`` vectors, best first, equal ones in row order.

    ``propose(n)`` gives rows, float32 products, best first, and vectors of as many candidates. The rounding of such
    products depends on an engine's code path, so candidates are ranked again in float64, and more are requested until
    no other vector can belong to the first ``k``.
    """
    k = min(k, left)
    if k == 0:
        return np.empty(0, np.int64), np.empty(0)
    ask = min(left, k + 8)
    while True:
        rows, proposed, vectors = propose(ask)
        cosine = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        best = np.lexsort((rows, -cosine))[:k]
        if ask == left or cosine[best[-1]] > proposed[-1] + FAISS_ERROR:
            return rows[best], cosine[best]
        ask = min(left, 4 * ask)


def _only(allowed: Bool[np.ndarray, " clips"]) -> Any:
    faiss = import_faiss()
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little")))


def import_faiss() -> Any:
    """The faiss module, imported lazily because it is large."""
    try:
        import faiss
    except ImportError:
        raise MemkitError("This retriever searches with FAISS; install it: pip install faiss-cpu") from None
    return faiss


def read_flat_ip(path: str | os.PathLike[str]) -> FlatVectors:
    """The unit vectors of an `IndexFlatIP` file; its header is checked against its size before FAISS reads it.

    Raises `InputError` for any other content, naming what is wrong.
    """
    path = Path(path)
    header = struct.Struct("<4siqqqBiQ")  # type, dim, rows, two unused, trained, metric, floats; then the floats
    try:
        with path.open("rb") as file:
            head = file.read(header.size)
        kind, dim, count, _, _, _, metric, floats = header.unpack(head)
    except OSError as error:
        raise InputError(f"The FAISS index {path} cannot be read: {error}.") from error
    except struct.error:
        raise InputError(f"{path} is too short to be a FAISS index.") from None
    if kind != b"IxFI" or metric != 0:
        raise InputError(f"{path} is not a FAISS IndexFlatIP file (it begins with {kind!r}); save it as one.")
    if dim < 1 or count < 0 or floats != dim * count or path.stat().st_size != header.size + 4 * floats:
        raise InputError(f"The FAISS index {path} is truncated or damaged: its size does not fit its header.")
    try:
        vectors = FlatVectors(import_faiss().read_index(str(path)))
    except RuntimeError as error:
        raise InputError(f"FAISS cannot read the index {path}: {error}") from error
    vectors.check_unit(path)
    return vectors


def are_unit(vectors: Float32[np.ndarray, "rows dim"]) -> Bool[np.ndarray, " rows"]:
    """Which rows have unit length, False for NaN; the tolerance admits vectors normalised in half precision."""
    return abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-2
