"""Vectors as 4-bit codes that FAISS scans quickly, with the errors that the codes make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from memkit.errors import InputError
from memkit.files.checksums import stated_checksum
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.retrievers.engines.vector_file import VectorFile, checksums
from memkit.retrievers.vectors import are_unit, import_faiss

KIND, KEY, FILE = FileKind("codes of an index", "memkit-codes", 1), "codes", "codes.safetensors"
_TRAINED_ON = 50_000  # vectors, which is far more than 16 centroids per pair of dimensions need
_QUERIES, _NEIGHBOURS = 256, 5  # of the sample that errors are measured on
_PROPOSED = 4096


class Codes(NamedTuple):
    """Product quantisation with 4 bits per pair of dimensions (FAISS's fast scan, arXiv 1704.07355)."""

    faiss: Any
    errors: Float[np.ndarray, " n"]
    """What the codes take from the product of a vector with its true near neighbours, sorted."""
    checksums: Int[np.ndarray, " rows"]
    """That of each vector, see `memkit.retrievers.engines.vector_file.checksums`."""
    trained: int
    """Number of vectors when the quantiser was trained."""

    def margin(self, recall: float) -> float:
        """How much more than its code says a neighbour's product is, at most, for this share of the neighbours."""
        return float(np.quantile(self.errors, recall))


def code(file: VectorFile, before: Codes | None, seed: int = 0) -> Codes:
    """The codes of all rows of a file. The quantiser of ``before`` is kept until the number of rows has doubled."""
    faiss, count, dim = import_faiss(), file.count, file.dim
    if before is not None and before.trained <= count <= 2 * before.trained:
        index, trained, done = faiss.clone_index(before.faiss), before.trained, before.faiss.ntotal
        sums = [before.checksums]
    else:
        index = faiss.IndexPQFastScan(dim, dim // 2 if dim % 2 == 0 else dim, 4, faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(seed).permutation(count)[:_TRAINED_ON]
        index.train(file.rows(np.sort(sample)))
        trained, done, sums = count, 0, []
    for block in file.blocks(done):
        if not are_unit(block).all():
            raise InputError(f"{file.path} has vectors that are not of unit length; delete it, and it is built anew.")
        index.add(block)
        sums.append(checksums(block))
    errors = _errors(file, index, seed)
    return Codes(index, errors, np.concatenate(sums), trained)


def save_codes(folder: Path, codes: Codes, vectors: Path) -> None:
    """Save codes with the checksum of the file of the vectors that they are of."""
    about = {"vectors": stated_checksum(vectors), "trained": codes.trained}
    tensors = {
        "faiss": torch.from_numpy(import_faiss().serialize_index(codes.faiss)),
        "errors": torch.from_numpy(codes.errors),
        "checksums": torch.from_numpy(codes.checksums),
    }
    save_tensors(folder / FILE, KIND, KEY, about, tensors)


def read_codes(folder: Path, vectors: VectorFile) -> Codes:
    """The codes of a file of vectors; `InputError` where they are of another, or damaged."""
    with open_tensors(folder / FILE, KIND, KEY) as (about, opened):
        if about["vectors"] != stated_checksum(vectors.path):
            raise InputError(f"{folder / FILE} belongs to another file than {vectors.path.name}.")
        faiss = import_faiss().deserialize_index(opened.get_tensor("faiss").numpy())
        errors, sums = (opened.get_tensor(name).numpy() for name in ("errors", "checksums"))
        if (faiss.ntotal, faiss.d) != (vectors.count, vectors.dim) or len(sums) != vectors.count:
            raise InputError(f"{folder / FILE} has {faiss.ntotal} codes of {vectors.count} vectors.")
        return Codes(faiss, errors, sums, about["trained"])


def _errors(file: VectorFile, index: Any, seed: int) -> Float[np.ndarray, " n"]:
    """Product minus coded product of sampled vectors with their nearest others.

    A neighbour that the codes place behind the first 4096 counts with what it is behind them at least.
    """
    picked = np.sort(np.random.default_rng(seed + 1).permutation(file.count)[:_QUERIES])
    queries = file.rows(picked)
    rows, exact = _neighbours(file.blocks(), queries, picked)
    coded, found = index.search(queries, min(file.count, _PROPOSED))
    errors = np.empty(rows.shape)
    for i in range(len(picked)):
        place = {int(row): float(value) for row, value in zip(found[i], coded[i], strict=True)}
        errors[i] = [e - place.get(int(row), float(coded[i, -1])) for row, e in zip(rows[i], exact[i], strict=True)]
    return np.sort(errors.ravel())


def _neighbours(
    blocks: Iterator[Float32[np.ndarray, "rows dim"]], queries: Float32[np.ndarray, "q dim"], own: np.ndarray
) -> tuple[Int[np.ndarray, "q n"], Float32[np.ndarray, "q n"]]:
    """Rows and products of the nearest vectors of each query but itself."""
    start, rows, best = 0, np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for block in blocks:
        scores = queries @ block.T
        inside = (own >= start) & (own < start + len(block))
        scores[inside, own[inside] - start] = -np.inf
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + len(block)), scores.shape)], 1)
        best = np.concatenate([best, scores], 1)
        top = np.argpartition(-best, min(_NEIGHBOURS, best.shape[1]) - 1, axis=1)[:, :_NEIGHBOURS]
        rows, best = np.take_along_axis(rows, top, 1), np.take_along_axis(best, top, 1)
        start += len(block)
    return rows, best
