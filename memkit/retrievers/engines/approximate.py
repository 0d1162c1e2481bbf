"""Approximate search by FAISS: 4-bit codes in memory propose, vectors on the disk decide."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from memkit.checks import check_number, check_whole
from memkit.errors import InputError
from memkit.files.atomic import writing
from memkit.files.checksums import verify_checksum
from memkit.retrievers.engines import codes as coding
from memkit.retrievers.engines.protocol import SavedIndex
from memkit.retrievers.engines.vector_file import BLOCK, VectorFile, write_vectors
from memkit.retrievers.hits import Excluded
from memkit.retrievers.saved_index import FILE, about_of, read_saved, saved, write_saved
from memkit.retrievers.vectors import FAISS_ERROR, FlatVectors

log = logging.getLogger(__name__)

_FEW = 2048  # rows that are compared one by one: as fast as to scan codes
_FIRST = 1024  # candidates that are asked for, and more per hit
_PER_HIT = 16
_AT_ONCE = 64  # candidates that are read before the first look at whether they suffice


@dataclass(frozen=True)
class Approximate:
    """A scan of 4-bit codes in memory, 1/16 of the vectors' size, and exact products of the best candidates.

    Candidates are read, best code first, until the code of the next is so low that a true neighbour has one as low in
    at most 1 − ``recall`` of all cases, by errors of the codes that are measured on stored vectors when the index is
    built. That holds for vectors in clusters and without, but it is a statement about queries like the stored vectors.
    A bank of fewer than ``smallest`` clips is searched exactly. The file of the vectors is that of `Exact`, so that one
    index serves both; the codes lie beside it.
    """

    recall: float = 0.99
    smallest: int = 20_000

    def __post_init__(self) -> None:
        check_number("recall", self.recall, 0.5, 1.0)
        check_whole("smallest", self.smallest, 64)

    is_database: ClassVar[bool] = False

    def empty(self, folder: Path, dim: int) -> ApproximateIndex:
        return ApproximateIndex(FlatVectors.empty(dim), self.recall)

    def read(self, folder: Path) -> SavedIndex | None:
        if not (folder / FILE).exists():
            return self._in_memory(folder)
        file = VectorFile(folder / FILE)
        if file.count < self.smallest:
            return self._in_memory(folder)
        index = ApproximateIndex(FlatVectors.empty(file.dim), self.recall)
        index.take(file, _codes(folder, file))
        return saved(file.about, index, file.path)

    def write(self, folder: Path, index: SavedIndex) -> None:
        vectors = index.vectors
        assert isinstance(vectors, ApproximateIndex)
        if len(vectors) < self.smallest and vectors.coded is None:
            write_saved(folder, index._replace(vectors=vectors.recent))
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_vectors(folder / FILE, about_of(index), vectors.blocks(), len(vectors), vectors.dim)
            file = VectorFile(folder / FILE)
            codes = coding.code(file, vectors.coded[1] if vectors.coded else None)
            vectors.take(file, codes)  # also if its codes cannot be saved
            coding.save_codes(folder, codes, file.path)

    def _in_memory(self, folder: Path) -> SavedIndex | None:
        if (found := read_saved(folder)) is None:
            return None
        assert isinstance(found.vectors, FlatVectors)
        return found._replace(vectors=ApproximateIndex(found.vectors, self.recall))


class ApproximateIndex:
    """Rows with codes, on the disk, and ``recent`` ones in memory, which are searched exactly until the next save."""

    def __init__(self, recent: FlatVectors, recall: float) -> None:
        self.recent, self.recall = recent, recall
        self.coded: tuple[VectorFile, coding.Codes] | None = None

    def __len__(self) -> int:
        return self._on_disk + len(self.recent)

    @property
    def dim(self) -> int:
        return self.recent.dim

    @property
    def _on_disk(self) -> int:
        return self.coded[0].count if self.coded else 0

    def take(self, file: VectorFile, codes: coding.Codes) -> None:
        """From now on all rows are those of a file."""
        file.checksums = codes.checksums
        self.coded, self.recent = (file, codes), FlatVectors.empty(file.dim)

    def add(
        self, vectors: Float32[np.ndarray, "rows dim"], ids: Sequence[str] = (), sources: Sequence[str | None] = ()
    ) -> None:
        """Append rows; ids and sources are not kept, as a query comes with the rows that it may return."""
        self.recent.add(vectors)

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """The vectors of some rows."""
        found = np.empty((len(rows), self.dim), np.float32)
        new = rows >= self._on_disk
        if self.coded is not None:
            found[~new] = self.coded[0].rows(rows[~new])
        found[new] = self.recent.rows(rows[new] - self._on_disk)
        return found

    def blocks(self) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        """All vectors, in blocks."""
        recent = (
            self.recent.faiss.reconstruct_n(i, min(BLOCK, n - i))
            for n in [len(self.recent)]
            for i in range(0, n, BLOCK)
        )
        return itertools.chain(self.coded[0].blocks() if self.coded else (), recent)

    def search(
        self, query: Float32[np.ndarray, " dim"], k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """Rows and cosines of the ``k`` nearest allowed vectors, best first, equal ones in row order."""
        old, new = np.split(excluded.allowed, [self._on_disk])
        rows, cosines = self.recent.search(query, k, excluded._replace(allowed=new))
        if self.coded is None:
            return rows, cosines
        others, theirs = self._by_codes(*self.coded, query, min(k, int(old.sum())), old)
        rows, cosines = np.concatenate([others, rows + self._on_disk]), np.concatenate([theirs, cosines])
        best = np.lexsort((rows, -cosines))[:k]
        return rows[best], cosines[best]

    def _by_codes(
        self, file: VectorFile, codes: coding.Codes, query: np.ndarray, k: int, allowed: Bool[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        left, margin = int(allowed.sum()), codes.margin(self.recall) + FAISS_ERROR
        if k == 0 or left <= _FEW:
            return _best(file, rows := np.flatnonzero(allowed), file.rows(rows) @ query, query, k)
        ask = min(file.count, -(-(_FIRST + _PER_HIT * k) * file.count // left))
        while True:
            (coded,), (rows,) = codes.faiss.search(query[None], ask)
            lowest = coded[-1]
            coded, rows = coded[allowed[rows]], rows[allowed[rows]]
            products, done = np.empty(len(rows), np.float32), 0
            while done < len(rows):
                part = slice(done, min(len(rows), max(_AT_ONCE, 2 * done)))
                products[part] = file.rows(rows[part]) @ query
                done = part.stop
                following = coded[done] if done < len(rows) else lowest
                if done >= k and following + margin < np.partition(products[:done], done - k)[done - k]:
                    return _best(file, rows[:done], products[:done], query, k)
            if ask == file.count:
                return _best(file, rows, products, query, k)
            ask = min(file.count, 4 * ask)


def _best(
    file: VectorFile, rows: Int[np.ndarray, " n"], products: Float32[np.ndarray, " n"], query: np.ndarray, k: int
) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
    """The ``k`` best by products in float64, of those that rounding in float32 leaves in question."""
    k = min(k, len(rows))
    if k:
        rows = rows[products >= np.partition(products, -k)[-k] - 2 * FAISS_ERROR]
    cosines = (file.rows(rows).astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    best = np.lexsort((rows, -cosines))[:k]
    return rows[best], cosines[best]


def _codes(folder: Path, file: VectorFile) -> coding.Codes:
    """Those on the disk, or new ones where these are missing or cannot be used."""
    if (folder / coding.FILE).exists():
        try:
            return coding.read_codes(folder, file)
        except InputError as error:
            log.warning("The codes of the index %s are computed anew: %s", folder, error)
    verify_checksum(file.path)  # what is coded from here on is checked by row
    codes = coding.code(file, None)
    try:
        coding.save_codes(folder, codes, file.path)
    except OSError as error:
        log.warning("The codes of the index %s stay in memory (%s).", folder, error)
    return codes
