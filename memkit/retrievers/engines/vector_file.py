"""Vectors that stay on the disk: rows of an index's file, read when they are needed and compared with checksums."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write
from memkit.files.checksums import set_checksum, with_checksum, without_checksum
from memkit.files.headers import safetensors_header
from memkit.files.json_files import parse_json
from memkit.retrievers.saved_index import KEY, KIND

BLOCK = 16_384
"""Rows that are read or written at once."""


class VectorFile:
    """The rows of an index's file, as `memkit.retrievers.saved_index` writes it, mapped and not read at the opening.

    A row is compared with its checksum in ``checksums`` whenever it is read, once those are set. `forget` takes what
    was read out of the memory of this process; the system keeps it in its cache as long as there is room.
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
            with open(path, "rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little") + info["data_offsets"][0]
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._map, np.float32, self.count * self.dim, start)
            self._rows = self._rows.reshape(self.count, self.dim)
        self.checksums: Int[np.ndarray, " rows"] | None = None

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """Copies of some rows; `FileError` where they are not what was written."""
        found = self._rows[rows]
        if self.checksums is not None and len(bad := np.flatnonzero(checksums(found) != self.checksums[rows])):
            row = int(rows[bad[0]])
            raise FileError(f"{self.path} is damaged at row {row}; delete the file, and it is built anew.")
        return found

    def blocks(self, start: int = 0) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        """All rows from ``start``, in blocks."""
        for row in range(start, self.count, BLOCK):
            yield self.rows(np.arange(row, min(row + BLOCK, self.count)))
            self.forget()

    def forget(self) -> None:
        """Give back the memory of the rows that were read, where the system can."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


def checksums(rows: Float32[np.ndarray, "rows dim"]) -> Int[np.ndarray, " rows"]:
    """A number of 64 bits per row: the sum of its bits in words of 32, times odd weights, modulo 2^64.

    A change of any one number of a row changes it, and others do but for a chance of 2^-32 or less.
    """
    weights = np.random.default_rng(0).integers(0, 2**63, rows.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    return (np.ascontiguousarray(rows).view(np.uint32) * weights).sum(1, dtype=np.uint64).view(np.int64)


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
