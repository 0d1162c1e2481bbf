"""`atomic_write`: files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place beside ``path`` to write to; at the end of the ``with`` it is on the disk and takes the file's name.

        with atomic_write("run/log.json") as partial:
            partial.write_text(text)

    Until then, and after an error inside, what had the name before has it still. Two processes must not write one file
    at a time. What the block raises, and `OSError` where the file cannot be written, comes out of the ``with``.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())  # or a crash of the machine could leave the name to an empty file
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # it is gone, or was never there
            partial.unlink()
