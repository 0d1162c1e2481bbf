"""The file of an index: its vectors, with what they were made of, under one checksum; a save replaces it as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from memkit.errors import FileError, InputError
from memkit.files.atomic import hash_files, writing
from memkit.files.json_files import read_json
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.retrievers.engines.protocol import SavedIndex, VectorIndex
from memkit.retrievers.vectors import FlatVectors, read_flat_ip

KIND = FileKind("saved index", "memkit-index", 2)
FILE, KEY = "index.safetensors", "index"
_REMEDY = "it is built anew"
_VERSION_1 = ("vectors.faiss", "index.json")


def write_saved(folder: Path, index: SavedIndex) -> None:
    """Save in ``folder``, which is made if needed; `FileError` where it cannot be written."""
    assert isinstance(index.vectors, FlatVectors)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / FILE, KIND, KEY, about_of(index), {"vectors": torch.from_numpy(index.vectors.all())})
        for old in _VERSION_1:
            (folder / old).unlink(missing_ok=True)


def has_saved(folder: Path) -> bool:
    """Whether there is a saved index in ``folder``, in whatever state."""
    return any((folder / name).exists() for name in (FILE, "index.json"))


def read_saved(folder: Path) -> SavedIndex | None:
    """What was saved in ``folder``; None if nothing was.

    Raises:
        InputError: it is damaged or of another format.
    """
    file = folder / FILE
    if not file.exists():
        return _read_version_1(folder) if (folder / "index.json").exists() else None
    with open_tensors(file, KIND, KEY) as (about, opened):
        vectors = FlatVectors.of(opened.get_tensor("vectors").numpy(), file)
        return saved(about, vectors, file)


def _read_version_1(folder: Path) -> SavedIndex:
    """Two files, of which the JSON states the SHA-256 of the other."""
    vectors, listed = (folder / name for name in _VERSION_1)
    about = read_json(listed, _REMEDY)
    index = read_flat_ip(vectors)
    if hash_files(vectors) != about.get("vectors"):
        raise FileError(f"{vectors} is not the file that {listed.name} describes; {_REMEDY}.")
    return saved(about, index, listed)


def about_of(index: SavedIndex) -> dict[str, Any]:
    """What an index says of itself beside its vectors, as JSON."""
    return {"settings": index.settings, "fingerprint": index.fingerprint, "contents": index.contents}


def saved(about: dict[str, Any], vectors: VectorIndex, file: str | os.PathLike[str]) -> SavedIndex:
    """The opposite of `about_of`; `InputError`, which names ``file``, where something is missing."""
    settings, fingerprint, contents = (about.get(name) for name in ("settings", "fingerprint", "contents"))
    if not isinstance(settings, dict) or not isinstance(fingerprint, str) or not isinstance(contents, str):
        raise InputError(f"{file} does not say what the vectors were made of; {_REMEDY}.")
    return SavedIndex(settings, fingerprint, contents, vectors)
