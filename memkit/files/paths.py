"""Paths of files that another file names."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from memkit.errors import FileError


def inside(folder: str | os.PathLike[str], name: str, remedy: str) -> Path:
    """The path of a file in a folder, or below it, by a name that was read from a file.

    Links are not resolved: those that the owner of a folder has put there may lead anywhere, but a name may not.

    Raises:
        FileError: ends in ``remedy``. The name is no text, empty or absolute, leads out of the folder, also on Windows,
            or cannot be that of a file.
    """
    parts = PureWindowsPath(name).parts if isinstance(name, str) else ()  # both slashes separate
    if not parts or ".." in parts or PureWindowsPath(name).anchor or "\0" in name:
        raise FileError(f"{folder} has no file {str(name)[:200]!r}: a name must not lead out of it; {remedy}.")
    return Path(folder) / name
