"""Vectors that stay on the disk: rows of an index's file, read when they are needed and compared with checksums."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write, reading
from memkit.files.checksums import set_checksum, with_checksum, without_checksum
from memkit.files.headers import safetensors_header
from memkit.files.json_files import parse_json
from memkit.retrievers.saved_index import KEY, KIND

BLOCK = 16_384
"""Rows that are read or written at once."""


class VectorFile:
    """The rows of an index's file, as `memkit.retrievers.saved_index` writes it, without reading them at the opening.

    A row is compared with its checksum in ``checksums`` whenever it is read, once those are set. Rows are read rather
    than mapped, so that those of past queries are no memory of this process; the system has them in its cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with KIND.reading(path):
            header = safetensors_header(path)
            self.about: dict[str, Any] = without_checksum(parse_json(header["__metadata__"][KEY]), True, path)
            KIND.check(self.about, path)
            info = header["vectors"]
            if info["dtype"] != "F32" or len(info["shape"]) != 2:
                raise InputError(f"{path} holds {info['dtype']} {info['shape']}, not float32 vectors; build it anew.")
            self.count, self.dim = info["shape"]
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed with this object
            self._start = 8 + int.from_bytes(self._file.read(8), "little") + info["data_offsets"][0]
        self.checksums: Int[np.ndarray, " rows"] | None = None

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """Copies of some rows; `FileError` where they are not what was written."""
        with reading(self.path, "delete the file, and it is built anew"):
            parts = [self._read(row, 1) for row in rows.tolist()]
        return self._checked(rows, parts)

    def blocks(self, start: int = 0) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        """All rows from ``start``, in blocks."""
        for row in range(start, self.count, BLOCK):
            rows = np.arange(row, min(row + BLOCK, self.count))
            yield self._checked(rows, [self._read(row, len(rows))])

    def _read(self, row: int, count: int) -> bytes:
        size = 4 * self.dim
        return os.pread(self._file.fileno(), size * count, self._start + size * row)

    def _checked(self, rows: Int[np.ndarray, " rows"], parts: list[bytes]) -> Float32[np.ndarray, "rows dim"]:
        data = b"".join(parts)
        if len(data) != 4 * self.dim * len(rows):
            raise FileError(f"{self.path} has been cut short; delete the file, and it is built anew.")
        found = np.frombuffer(data, np.float32).reshape(len(rows), self.dim)
        if self.checksums is not None and len(bad := np.flatnonzero(checksums(found) != self.checksums[rows])):
            row = int(rows[bad[0]])
            raise FileError(f"{self.path} is damaged at row {row}; delete the file, and it is built anew.")
        return found


def checksums(rows: Float32[np.ndarray, "rows dim"]) -> Int[np.ndarray, " rows"]:
    """64 bits per row: the sum of its words times odd weights, modulo 2^64, which any one changed word changes."""
    words = rows.view(np.uint64) if rows.shape[1] % 2 == 0 else rows.view(np.uint32).astype(np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, words.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    return np.einsum("ij,j->i", words, weights).view(np.int64)


def write_vectors(path: Path, about: dict[str, Any], blocks: Iterable[np.ndarray], count: int, dim: int) -> None:
    """Write what `memkit.retrievers.saved_index.write_saved` writes, block by block; whole or not at all."""
    header = {
        "__metadata__": {KEY: json.dumps(with_checksum(KIND.header(about)))},
        "vectors": {"dtype": "F32", "shape": [count, dim], "data_offsets": [0, 4 * count * dim]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as partial:
        with open(partial, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for block in blocks:
                file.write(np.ascontiguousarray(block, np.float32).data)
        set_checksum(partial)
