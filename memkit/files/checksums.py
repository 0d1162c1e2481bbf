"""Checksums inside files, compared before a file is used, and `SHA256SUMS` beside files of other formats.

Near its beginning, a file states ``sha256:`` and 64 digits: the SHA-256 of the file with these digits as zeros. The
place is the same for JSON, for the header of a safetensors file and for JSON lines, and the file stays readable by
everything that reads its format.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from memkit.errors import FileError
from memkit.files.atomic import atomic_write, hash_files, reading
from memkit.files.paths import inside

CHECKSUM_KEY = "checksum"
UNSET = f"sha256:{'0' * 64}"
"""What to write in the place of the checksum until `set_checksum` fills it."""
SUMS_FILE = "SHA256SUMS"

_PLACE = re.compile(rb"sha256:([0-9a-f]{64})")
_REMEDY = "restore it from a copy, or write it again"
_START = 512  # bytes at the beginning of a file that are searched for its checksum


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """JSON content with an unset checksum as its first entry."""
    return {CHECKSUM_KEY: UNSET, **{name: value for name, value in content.items() if name != CHECKSUM_KEY}}


def set_checksum(path: str | os.PathLike[str]) -> None:
    """Fill the checksum of a file that was written with `UNSET` among its first 512 bytes."""
    start, _stated, actual = _checksum(path)
    assert start is not None, f"{path} was written without a place for its checksum"
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(actual.encode())


def verify_checksum(path: str | os.PathLike[str]) -> bool:
    """Compare a file with the checksum in it; whether it has one, which files of other programs do not.

    Raises:
        FileError: the file cannot be read, or was changed since it was written.
    """
    with reading(path, "check the path"):
        start, stated, actual = _checksum(path)
    if start is None:
        return False
    if stated != actual:
        raise FileError(
            f"{path} is damaged: its content does not match its checksum, as after a fault of the disk, an incomplete "
            f"copy or an edit by hand; {_REMEDY}."
        )
    return True


def stated_checksum(path: str | os.PathLike[str]) -> str | None:
    """The checksum that a file states of itself, by which another file can name it; None without one."""
    with reading(path, "check the path"), open(path, "rb") as file:
        place = _PLACE.search(file.read(_START))
    return None if place is None else place[1].decode()  # without "sha256:", which marks a checksum of a file itself


def without_checksum(content: dict[str, Any], verified: bool, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a file less its checksum; `FileError` if that could not be found by `verify_checksum`."""
    if CHECKSUM_KEY in content and not verified:
        raise FileError(f"{path} is damaged: the checksum in it cannot be read; {_REMEDY}.")
    return {name: value for name, value in content.items() if name != CHECKSUM_KEY}


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of all files in a folder and below, in the form that ``sha256sum --check`` reads.

    Its first line, a comment, is the checksum of the list itself, so that a list which has lost lines is noticed.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS_FILE)
    lines = [f"{hash_files(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    with atomic_write(folder / SUMS_FILE) as partial:
        partial.write_text("".join([f"# {UNSET}\n", *lines]), encoding="utf-8")
        set_checksum(partial)


def verify_sums(folder: Path) -> None:
    """Compare the files of a folder with its ``SHA256SUMS``; nothing where it has none.

    Raises:
        FileError: a listed file is missing or differs, or the list cannot be read.
    """
    listed = folder / SUMS_FILE
    if not listed.is_file():
        return
    remedy = f"restore the folder, or delete {listed} if you changed the files yourself"
    with reading(listed, remedy):
        verify_checksum(listed)
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines:
            raise FileError(f"{listed} is empty; {remedy}.")
        for number, line in enumerate(lines, 1):
            if line.startswith("#"):
                continue
            match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
            if match is None:
                raise FileError(f"Line {number} of {listed} is no checksum and name; {remedy}.")
            if hash_files(file := inside(folder, match[2], remedy)) != match[1]:
                raise FileError(f"{file} does not match its checksum in {listed}; {remedy}.")


def _checksum(path: str | os.PathLike[str]) -> tuple[int | None, str, str]:
    """Where the digits of the checksum begin, None without one; what they state; and what they should."""
    with open(path, "rb") as file:
        head = file.read(_START)
        place = _PLACE.search(head)
        if place is None:
            return None, "", ""
        digest = hashlib.sha256(_zeroed(head, place))
        while part := file.read(1 << 22):
            digest.update(part)
    return place.start(1), place[1].decode(), digest.hexdigest()


def _zeroed(head: bytes, place: re.Match[bytes]) -> bytes:
    return head[: place.start(1)] + b"0" * 64 + head[place.end(1) :]
