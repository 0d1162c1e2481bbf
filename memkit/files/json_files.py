"""JSON on disk: objects and lines, with checksums, and read so that no content raises anything but typed errors."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memkit.errors import FileError
from memkit.files.atomic import atomic_write, reading, writing
from memkit.files.checksums import set_checksum, verify_checksum, with_checksum, without_checksum

ROW_CHECKSUM_KEY = "crc32"
_MISNAMED = re.compile(rb'"[^"]{5}": "[0-9a-f]{8}"\}$')  # a last entry that looks like a checksum
LARGEST = 1 << 30  # bytes of a JSON file; more is damage or an attack, and parsing it takes ten times as much memory


def write_json(file: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; an object gets a checksum as its first entry.

    Raises:
        FileError: the file cannot be written.
        ValueError: the content is not JSON; TypeError likewise.
    """
    sealed = isinstance(content, dict)
    text = json.dumps(with_checksum(content) if sealed else content, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(file) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
        if sealed:
            set_checksum(partial)


def read_json(file: str | os.PathLike[str], remedy: str, finite: bool = True) -> dict[str, Any]:
    """The object in a JSON file, without its checksum, which is compared where there is one.

    Unless ``finite``, numbers may be infinite, as a cut-off in a configuration may be.

    Raises:
        FileError: ends in ``remedy``. The file is missing, damaged, larger than 1 GiB, or holds something other than
            an object, or numbers that are not finite.
    """
    with reading(file, remedy):
        verified = verify_checksum(file)
        if os.path.getsize(file) > LARGEST:
            raise FileError(f"it has {os.path.getsize(file):,} bytes")
        content = parse_json(Path(file).read_bytes(), finite)
        if not isinstance(content, dict):
            raise FileError("it holds no JSON object")
    return without_checksum(content, verified, file)


def parse_json(text: str | bytes, finite: bool = True) -> Any:
    """JSON of (finite) numbers; `FileError` for anything else, also for what is nested too deeply to be read."""
    try:
        return json.loads(text, parse_constant=_refuse_constant if finite else None, parse_float=_finite)
    except RecursionError:
        raise FileError("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and the limit on digits are ValueErrors too
        raise FileError(f"it is not JSON ({error})") from None


# -- JSON lines ----------------------------------------------------------------------------------------------------


def line_of(row: dict[str, Any]) -> str:
    """A row as one line of text, with the CRC-32 of what is before it as its last entry."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    comma = ", " if row else ""
    return f'{text[:-1]}{comma}"{ROW_CHECKSUM_KEY}": "{_crc(text):08x}"}}\n'


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Append one row to a file of lines; `FileError` where it cannot be written, as on a full disk."""
    with writing(file), file.open("ab") as opened:
        opened.write(line_of(row).encode())


def write_rows(file: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a file of lines, whole or not at all. Its first line states how many follow, and a checksum of all."""
    lines = [line_of(row) for row in rows]
    with atomic_write(file) as partial:
        first = json.dumps(with_checksum({"rows": len(lines)}))
        partial.write_bytes("".join([first + "\n", *lines]).encode())
        set_checksum(partial)


def read_rows(file: str | os.PathLike[str], remedy: str) -> list[dict[str, Any]]:
    """The rows that `write_rows` wrote, each without its checksum.

    Raises:
        FileError: ends in ``remedy``. The file is missing, cut short or damaged.
    """
    with reading(file, remedy):
        verified = verify_checksum(file)
        data = Path(file).read_bytes()
    if not data.endswith(b"\n"):
        raise FileError(f"{file} is empty or cut short: it does not end in a whole line; {remedy}.")
    first, *others = _rows(file, data.split(b"\n")[:-1], remedy)
    return others if without_checksum(first, verified, file) != first else [first, *others]


def hash_rows(rows: Iterable[dict[str, Any]]) -> str:
    """SHA-256 of rows, the same whether they come from a file with checksums or without."""
    return hashlib.sha256("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()).hexdigest()


def read_log(file: str | os.PathLike[str], remedy: str, finite: bool = True) -> list[dict[str, Any]]:
    """The rows that `append_row` wrote, each without its checksum.

    A last line without a newline at its end is left out: a crash or a full disk has cut it short. Without ``finite``,
    rows may hold Python's NaN and Infinity.

    Raises:
        FileError: ends in ``remedy``. The file is missing, or one of its lines is damaged.
    """
    with reading(file, remedy):
        return _rows(file, Path(file).read_bytes().split(b"\n")[:-1], remedy, finite)


def _rows(file: str | os.PathLike[str], lines: list[bytes], remedy: str, finite: bool = True) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(row_of(line, finite))
        except FileError as error:
            raise FileError(f"Line {number} of {file} is damaged: {error}; {remedy}.") from None
    return rows


def row_of(line: bytes, finite: bool = True) -> dict[str, Any]:
    """The row of a line of text, without its checksum; `FileError` where it is damaged."""
    row = parse_json(line, finite)
    if not isinstance(row, dict):
        raise FileError("it holds no JSON object")
    if (stated := row.pop(ROW_CHECKSUM_KEY, None)) is not None:
        text = line.decode().rpartition(f'"{ROW_CHECKSUM_KEY}"')[0].removesuffix(", ") + "}"
        if f"{_crc(text):08x}" != stated:
            raise FileError("its content does not match its checksum")
    elif _MISNAMED.search(line):
        raise FileError("the name of its checksum is damaged")
    return row


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is not finite")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
