"""The header of a bank, ``bank.json``: its format, its `info`, and how far its manifest goes.

It is replaced as a whole after each commit, and carries a checksum of its own. A manifest that is shorter than its
header states, or that differs from what was committed, is thus noticed, also where it was cut at the end of a line.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from memkit.errors import BankError
from memkit.files.atomic import atomic_write
from memkit.files.checksums import set_checksum, with_checksum
from memkit.files.json_files import read_json

FORMAT, VERSION = "memkit-bank", 1
HEADER, LINES = "bank.json", "clips.jsonl"
REMEDY = "restore it from a copy, or build the bank anew"


class Committed(NamedTuple):
    """The manifest at a commit: its lines, one per shard; its length; and the SHA-256 of that much of it."""

    lines: int
    bytes: int
    sha256: str


@contextlib.contextmanager
def new_header(path: Path, info: dict[str, Any], committed: Committed) -> Iterator[None]:
    """Write a header beside the one of the bank ``path``, which it replaces at the end of the ``with``.

    The block writes the lines, so that a full disk shows before it. If it raises, the header is as before.
    """
    content = {"format": FORMAT, "version": VERSION, "info": info, "committed": committed._asdict()}
    with atomic_write(path / HEADER) as partial:
        partial.write_text(json.dumps(with_checksum(content), indent=1) + "\n", encoding="utf-8")
        set_checksum(partial)
        yield


def read_header(path: Path) -> tuple[dict[str, Any], Committed | None]:
    """The info of the bank ``path``, and what was committed; None where an earlier memkit wrote it, without saying so.

    Raises:
        BankError: there is no bank, or its header is damaged or of another version.
    """
    try:
        header = read_json(path / HEADER, REMEDY)
    except ValueError as error:  # FileError is one, and paths that cannot be lead to others
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise BankError(f"{error}") from error
        if (path / LINES).is_file() and (path / LINES).stat().st_size:
            raise BankError(f"{path} has lost its {HEADER} (its {LINES} is there); {REMEDY}.") from error
        raise BankError(f"There is no bank at {path}; check the path, or create one there.") from error
    name, version, info = (header.get(key) for key in ("format", "version", "info"))
    if "format" in header and (name, version) != (FORMAT, VERSION):
        raise BankError(
            f"{path} is of format {name!r:.40} {version!r:.40}, not {FORMAT} {VERSION}; use a matching memkit."
        )
    if "format" not in header or not isinstance(info, dict):
        raise BankError(f"{path / HEADER} is damaged: it has no format or no info; {REMEDY}.")
    return info, _committed(header["committed"], path) if "committed" in header else None


def _committed(stated: Any, path: Path) -> Committed:
    if isinstance(stated, dict) and stated.keys() == {*Committed._fields}:
        counts = all(type(stated[name]) is int and stated[name] >= 0 for name in ("lines", "bytes"))
        if counts and isinstance(stated["sha256"], str) and re.fullmatch("[0-9a-f]{64}", stated["sha256"]):
            return Committed(**stated)
    raise BankError(f"{path / HEADER} is damaged: it does not state what was committed; {REMEDY}.")
