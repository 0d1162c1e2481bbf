"""Ways to damage files, each a function of a random generator."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from memkit.files.checksums import CHECKSUM_KEY
from memkit.files.json_files import write_json


class Damage(NamedTuple):
    """What was done to which file."""

    way: str
    file: str
    """Relative to the folder."""
    what: str


def flip(data: bytes, random: Random) -> tuple[bytes, str]:
    at, bit = random.randrange(len(data)), random.randrange(8)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], f"bit {bit} of byte {at} flipped"


def scatter(data: bytes, random: Random) -> tuple[bytes, str]:
    """Several bytes in one sector."""
    start, new = random.randrange(len(data)), bytearray(data)
    places = [min(len(data) - 1, start + random.randrange(512)) for _ in range(8)]
    for at in places:
        new[at] = random.randrange(256)
    return bytes(new), f"bytes {sorted(places)} overwritten"


def zero(data: bytes, random: Random) -> tuple[bytes, str]:
    start = random.randrange(len(data))
    length = min(len(data) - start, random.choice([1, 16, 512, 4096, len(data)]))
    return data[:start] + bytes(length) + data[start + length :], f"{length} bytes from {start} zeroed"


def cut(data: bytes, random: Random) -> tuple[bytes, str]:
    length = random.randrange(1, len(data)) if len(data) > 1 else 0
    return data[:length], f"cut to {length} of {len(data)} bytes"


def cut_line(data: bytes, random: Random) -> tuple[bytes, str]:
    ends = [i + 1 for i, byte in enumerate(data[:-1]) if byte == 10]
    length = random.choice(ends) if ends else 0
    return data[:length], f"cut to {length} of {len(data)} bytes, at the end of a line"


def empty(data: bytes, random: Random) -> tuple[bytes, str]:
    return b"", "emptied"


def repeat(data: bytes, random: Random) -> tuple[bytes, str]:
    start = random.randrange(len(data))
    length = min(len(data) - start, random.choice([1, 64, 512, 4096]))
    block = data[start : start + length]
    return data[: start + length] + block + data[start + length :], f"{length} bytes from {start} twice"


def remove(data: bytes, random: Random) -> tuple[bytes, str]:
    start = random.randrange(len(data))
    length = min(len(data) - start, random.choice([1, 64, 512, 4096]))
    return data[:start] + data[start + length :], f"{length} bytes from {start} removed"


def append(data: bytes, random: Random) -> tuple[bytes, str]:
    more = random.choice([b"\0" * 512, random.randbytes(300), data[-200:], b"\n"])
    return data + more, f"{len(more)} bytes appended ({more[:4]!r}...)"


BYTES: dict[str, Callable[[bytes, Random], tuple[bytes, str]]] = {
    "flip": flip,
    "scatter": scatter,
    "zero": zero,
    "cut": cut,
    "cut at a line": cut_line,
    "empty": empty,
    "repeat": repeat,
    "remove": remove,
    "append": append,
}
WHOLE = ("delete", "swap", "edit", "edit and seal")
"""Ways that are no function of the bytes alone: a file is gone, or that of another object, or has another value in its
JSON, with the checksum that it had or with the one that fits."""
WAYS = (*BYTES, *WHOLE)


def damage(folder: Path, other: Path, files: Sequence[str], way: str, random: Random) -> Damage | None:
    """Damage one of ``files`` in ``folder``; None where the way does not apply to it or changes nothing."""
    name = random.choice(sorted(files))
    file = folder / name
    data = file.read_bytes()
    if way == "delete":
        file.unlink()
        return Damage(way, name, "deleted")
    if way == "swap":
        if not (other / name).is_file() or (other / name).read_bytes() == data or len(files) == 1:
            return None
        shutil.copyfile(other / name, file)
        return Damage(way, name, "replaced by that of another object")
    if way.startswith("edit"):
        return _edit(file, name, way, random)
    if not data:
        return None
    new, what = BYTES[way](data, random)
    if new == data:
        return None
    file.write_bytes(new)
    return Damage(way, name, what)


def _edit(file: Path, name: str, way: str, random: Random) -> Damage | None:
    if file.suffix != ".json":
        return None
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict) or not content.keys() - {CHECKSUM_KEY}:
        return None
    place: Any = content
    path = []
    while isinstance(place, dict | list) and place:
        keys = sorted(place.keys() - {CHECKSUM_KEY}) if isinstance(place, dict) else range(len(place))
        key = random.choice(list(keys))
        path.append(key)
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.3:
            value = random.choice([None, -1, 0, 10**15, 1.5, True, "", "../../x", [], {}, [[]], "ä" * 300])
            place[key] = value
            break
        place = place[key]
    if way == "edit and seal":
        write_json(file, {k: v for k, v in content.items() if k != CHECKSUM_KEY})
    else:
        file.write_text(json.dumps(content))
    return Damage(way, name, f"{'.'.join(map(str, path))} = {value!r}")


def files_in(folder: Path) -> list[str]:
    """All files in a folder and below, relative to it."""
    found = (Path(root, name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)
    return sorted(path.as_posix() for path in found)
