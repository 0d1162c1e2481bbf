"""The file of an index: its vectors, with what they were made of, under one checksum; a save replaces it as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from memkit.errors import FileError, InputError
from memkit.files.atomic import hash_files, writing
from memkit.files.json_files import read_json
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.retrievers.vectors import VectorIndex, read_flat_ip

KIND = FileKind("saved index", "memkit-index", 2)
FILE, KEY = "index.safetensors", "index"
_REMEDY = "it is built anew"
_VERSION_1 = ("vectors.faiss", "index.json")


class SavedIndex(NamedTuple):
    """Vectors of the first clips of a bank, one row per clip."""

    settings: dict[str, Any]
    """What the vectors depend on besides the clips."""
    fingerprint: str
    """That of the bank at the time of the save."""
    contents: str
    """Digest of the ids and contents of the clips."""
    vectors: VectorIndex


def write_saved(folder: Path, index: SavedIndex) -> None:
    """Save in ``folder``, which is made if needed; `FileError` where it cannot be written."""
    about = {"settings": index.settings, "fingerprint": index.fingerprint, "contents": index.contents}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / FILE, KIND, KEY, about, {"vectors": torch.from_numpy(index.vectors.all())})
        for old in _VERSION_1:
            (folder / old).unlink(missing_ok=True)


def read_saved(folder: Path) -> SavedIndex | None:
    """What was saved in ``folder``; None if nothing was.

    Raises:
        InputError: it is damaged or of another format.
    """
    file = folder / FILE
    if not file.exists():
        return _read_version_1(folder) if (folder / "index.json").exists() else None
    with open_tensors(file, KIND, KEY) as (about, opened):
        vectors = VectorIndex.of(opened.get_tensor("vectors").numpy(), file)
        return _saved(about, vectors, file)


def _read_version_1(folder: Path) -> SavedIndex:
    """Two files, of which the JSON states the SHA-256 of the other."""
    vectors, listed = (folder / name for name in _VERSION_1)
    about = read_json(listed, _REMEDY)
    index = read_flat_ip(vectors)
    if hash_files(vectors) != about.get("vectors"):
        raise FileError(f"{vectors} is not the file that {listed.name} describes; {_REMEDY}.")
    return _saved(about, index, listed)


def _saved(about: dict[str, Any], vectors: VectorIndex, file: Path) -> SavedIndex:
    settings, fingerprint, contents = (about.get(name) for name in ("settings", "fingerprint", "contents"))
    if not isinstance(settings, dict) or not isinstance(fingerprint, str) or not isinstance(contents, str):
        raise InputError(f"{file} does not say what the vectors were made of; {_REMEDY}.")
    return SavedIndex(settings, fingerprint, contents, vectors)
