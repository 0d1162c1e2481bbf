"""The lock of the one writer of a bank."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from memkit.errors import BankError


class WriterLock:
    """A lock on the file ``.lock`` of the bank at ``path``; the system releases it when the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: FileLock | None = None
        self._process: int | None = None  # that has taken it

    @property
    def held(self) -> bool:
        """Whether this process has taken it, or was forked from one that has (`inherited`)."""
        return self._lock is not None

    @property
    def inherited(self) -> bool:
        """Whether it was taken before this process was forked: then it is not this one's."""
        return self._lock is not None and self._process != os.getpid()

    def acquire(self) -> None:
        """Become the one writer.

        Raises:
            BankError: another process is the writer, or this one was forked from it, or the folder cannot be written.
        """
        if self.inherited:
            raise BankError(
                f"{self._path} was open for writing when this process was forked, and the process that opened it is "
                "its writer; open the bank again in this one, and write when that one is done."
            )
        lock = FileLock(self._path / ".lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise BankError(
                f"{self._path} is being written by another process; wait until it is done, or write to another bank."
            ) from error
        except (OSError, NotImplementedError) as error:
            raise BankError(f"Cannot write to {self._path} ({error}); give a folder that can be written.") from error
        self._lock, self._process = lock, os.getpid()

    def release(self) -> None:
        """Let another process write; nothing where this one does not hold the lock."""
        if self._lock is not None and not self.inherited:
            self._lock.release()
            self._lock = None
