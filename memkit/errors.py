"""The errors memkit raises on purpose. Each message names the item and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MemkitError(Exception):
    """Any error that memkit raises on purpose."""


class InputError(MemkitError, ValueError):
    """An argument, a caption file or a tensor that cannot be used as given."""


class FileError(InputError, OSError):
    """A file that cannot be read or written: missing, damaged, no access, or a disk that is full."""


class BankError(MemkitError):
    """A memory bank on disk that is missing, damaged or incompatible."""


class MediaError(MemkitError):
    """A video or an image that cannot be decoded."""


def nearest(name: object, names: Iterable[object]) -> str:
    """The end of a message about a name that is unknown: " Did you mean 'frequency'?", or nothing if none is near."""
    known = {str(each).casefold(): str(each) for each in names}
    close = difflib.get_close_matches(str(name).casefold(), known, n=1) if isinstance(name, str) else []
    return f" Did you mean {known[close[0]]!r}?" if close else ""
