"""A process that is killed, or given an error, at its n-th operation on files, or after so many bytes of one.

Operations are those that Python announces (`sys.addaudithook`: opening to write, renaming, removing, linking,
truncating, making folders) and the waits for the disk (`os.fsync`). What libraries write by themselves in C or Rust is
reached by bytes: the system's limit on the size of files ends the process in the middle of a write, or refuses the
rest of it.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ERRORS = {"ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES, "EIO": errno.EIO}


def at_operation(folder: Path, number: int, act: Callable[[], object]) -> None:
    """Call ``act()`` in place of the ``number``-th operation on files in ``folder``, counted from 0."""
    count = -1

    def count_one() -> None:
        nonlocal count
        count += 1
        if count == number:
            act()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITING and _inside(path, folder):
                count_one()
        elif event in _CHANGES and _inside(arguments[0], folder):
            count_one()

    fsync = os.fsync

    def counted(descriptor: Any) -> None:
        count_one()
        fsync(descriptor)

    sys.addaudithook(hook)
    os.fsync = counted


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(name: str) -> None:
    """Raise the `OSError` of this name."""
    raise OSError(ERRORS[name], os.strerror(ERRORS[name]))


def limit_bytes(size: int, kills: bool) -> None:
    """End the process, or refuse to write, where a file would become larger than ``size`` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kills else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _inside(path: Any, folder: Path) -> bool:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return isinstance(path, str | os.PathLike) and str(folder) in str(path)
