"""Vectors that stay on the disk: rows of an index's file, read when they are needed and compared with checksums."""

from __future__ import annotations

import json
import os
import zlib
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

    A row is compared with its CRC-32 in ``checksums`` whenever it is read, once those are set. Rows are read rather
    than mapped, so that those of past queries are no memory of this process; the system caches them.
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
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # for as long as the index is used
            self._start = 8 + int.from_bytes(self._file.read(8), "little") + info["data_offsets"][0]
        self.checksums: Int[np.ndarray, " rows"] | None = None

    def close(self) -> None:
        """Close the file; no rows can be read then."""
        self._file.close()

    def rows(self, rows: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows dim"]:
        """Some rows; `FileError` where the disk gives others than were written."""
        size = 4 * self.dim
        with reading(self.path, "build the index anew"):
            parts = [os.pread(self._file.fileno(), size, self._start + size * row) for row in rows.tolist()]
        self._verify(rows, parts)
        return np.frombuffer(b"".join(parts), np.float32).reshape(len(rows), self.dim)

    def blocks(self, start: int = 0) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        """All rows from ``start``, in blocks."""
        for row in range(start, self.count, BLOCK):
            yield self.rows(np.arange(row, min(row + BLOCK, self.count)))

    def _verify(self, rows: Int[np.ndarray, " rows"], parts: list[bytes]) -> None:
        if self.checksums is None:
            return
        for row, part, crc in zip(rows.tolist(), parts, self.checksums[rows].tolist(), strict=True):
            if zlib.crc32(part) != crc:
                raise FileError(f"{self.path} is damaged at row {row}; delete the file, and it is built anew.")


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
