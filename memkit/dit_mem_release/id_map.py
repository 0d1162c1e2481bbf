"""The id map of DiT-Mem's release: which video each vector of its caption index belongs to."""

from __future__ import annotations

import os
from pathlib import Path

from memkit.errors import FileError, InputError
from memkit.files.atomic import reading
from memkit.files.json_files import LARGEST, parse_json

_REMEDY = "give the id_map.json of the release"
NAME_KEYS = ("video_path", "path", "video", "video_id", "id")


def read_id_map(path: str | os.PathLike[str]) -> list[str]:
    """The video name of each vector, from ``{"0": name, …}``, a list of names, or a list of objects with one of
    `NAME_KEYS`. Pickles, which the release also accepts, are refused: reading one runs any code that it holds.
    """
    path = Path(path)
    with reading(path, _REMEDY):
        if path.stat().st_size > LARGEST:
            raise InputError(f"The id map {path} has {path.stat().st_size:,} bytes; {_REMEDY}.")
        data = path.read_bytes()
    if path.suffix in (".pkl", ".pickle") or data[:1] == b"\x80":
        raise InputError(f"The id map {path} is a pickle, which can run code when it is read; convert it to JSON.")
    try:
        content = parse_json(data)
    except FileError as error:
        raise FileError(f"The id map {path} is not JSON: {error}; {_REMEDY}.") from None
    if isinstance(content, dict):
        try:
            content = [content[str(row)] for row in range(len(content))]
        except KeyError as error:
            last = len(content) - 1
            raise InputError(f"The id map {path} has no entry {error}; its keys must be 0 to {last}.") from None
    if not isinstance(content, list):
        raise InputError(f"The id map {path} is neither a JSON object nor a list.")
    return [_name(entry, f"Entry {row} of the id map {path}") for row, entry in enumerate(content)]


def _name(entry: object, where: str) -> str:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in NAME_KEYS if key in entry), None)
    if not isinstance(entry, str) or not entry:
        raise InputError(f"{where} names no video; give a name, or an object with one of {', '.join(NAME_KEYS)}.")
    return entry
