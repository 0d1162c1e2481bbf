"""Files that appear whole or not at all, whoever else writes them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import platform
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place beside ``path`` to write to; at the end of the ``with`` it is on the disk and takes the file's name.

        with atomic_write("run/log.json") as partial:
            partial.write_text(text)

    Until then, and after an error inside, what had the name before has it still. The place is this call's own: of
    processes that write one file at a time, the last to end wins, with a whole file. What processes of this machine
    that were killed have left of the same file is removed. What the block raises, and `OSError` where the file cannot
    be written, comes out of the ``with``.
    """
    path = Path(path)
    start = f".{path.name[:40]}.{zlib.crc32(platform.node().encode()):08x}-"
    partial = path.with_name(f"{start}{os.getpid()}-{secrets.token_hex(8)}.partial")
    try:
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())  # or a crash of the machine could leave the name to an empty file
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # it is gone, or was never there
            partial.unlink()
    _remove_abandoned(path.parent, start)


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` as indented JSON; see `atomic_write`."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def hash_files(*files: Path) -> str:
    """SHA-256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder; nothing where folders cannot be synced, as on Windows."""
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove_abandoned(folder: Path, start: str) -> None:
    """Remove the partial files that begin with ``start`` and whose process has ended."""
    for name in glob.glob(f"{glob.escape(start)}*.partial", root_dir=folder):
        import psutil  # only here: leftovers are rare

        pid = name.removeprefix(start).split("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):  # another process was faster
                (folder / name).unlink()
