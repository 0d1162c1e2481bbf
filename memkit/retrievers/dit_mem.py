"""The caption index in the format that DiT-Mem released: ``labels.index`` and ``id_map.json``."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np

from memkit.errors import InputError
from memkit.retrievers.vectors import VectorIndex, read_flat_ip

log = logging.getLogger(__name__)

NAME_KEYS = ("video_path", "path", "video", "video_id", "id")


def read_released(
    index_path: str | os.PathLike[str], id_map_path: str | os.PathLike[str]
) -> tuple[list[str], VectorIndex]:
    """Video names and caption vectors. A name that comes again keeps its first vector only, with a warning.

    Raises `InputError` when a file is not what it should be, or when the two differ in length.
    """
    vectors = read_flat_ip(index_path)
    ids = read_id_map(id_map_path)
    if len(ids) != len(vectors):
        raise InputError(
            f"{id_map_path} names {len(ids)} videos but {index_path} holds {len(vectors)} vectors; "
            "use the two files that were made together."
        )
    first = {id: row for row, id in reversed(list(enumerate(ids)))}
    rows = np.array(sorted(first.values()), np.int64)
    if len(rows) < len(ids):
        log.warning("%s: %d videos are named more than once; the first counts.", id_map_path, len(ids) - len(rows))
        unique = VectorIndex.empty(vectors.dim)
        unique.add(vectors.rows(rows))
        ids, vectors = [ids[row] for row in rows], unique
    return ids, vectors


def read_id_map(path: str | os.PathLike[str]) -> list[str]:
    """The video name of each vector, from ``{"0": name, …}``, a list of names, or a list of objects with one of
    `NAME_KEYS`. Pickles, which the release accepts too, are refused: reading one runs any code that it holds.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"The id map {path} cannot be read: {error}.") from error
    if path.suffix in (".pkl", ".pickle") or data[:1] == b"\x80":
        raise InputError(f"The id map {path} is a pickle, which can run code when it is read; convert it to JSON.")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The id map {path} is not JSON ({error}); give the id_map.json of the release.") from None
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
