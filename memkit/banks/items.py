"""What becomes of an item that fails while a bank is filled: the reason in a report, or the end of the whole run."""

from __future__ import annotations

import errno

from memkit.errors import BankError, FileError, MemkitError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def reason_of(error: Exception) -> str:
    """Why an item failed, for the report that lists it.

    Raises the error where no other item would fare better: a `BankError`, or a disk that is full (as `FileError`).
    """
    if isinstance(error, BankError):
        raise error
    if _is_full(error):
        raise FileError(f"The disk is full ({error}); make room, and run it again, which goes on from here.") from error
    return str(error) if isinstance(error, MemkitError) else f"{type(error).__name__}: {error}"


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk that is full is the cause of an error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
