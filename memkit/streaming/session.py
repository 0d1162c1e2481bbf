"""A stream on disk: its cache in one file, the rest as JSON that names this file and is replaced last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from memkit.errors import InputError
from memkit.files import atomic_write
from memkit.injectors.kv_cache.cache import KVCache
from memkit.tensor_file import FileKind

KIND = FileKind("saved stream", "memkit-stream", 1)


def save_stream(folder: Path, cache: KVCache, content: dict[str, Any]) -> None:
    """Write both to ``folder``; until all is written, `load_stream` finds what was saved there before.

    Raises `InputError` where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "stream.json"
        before = file.read_text() if file.exists() else ""
        name, other = ("b", "a") if '"cache": "a.safetensors"' in before else ("a", "b")
        cache.save(folder / f"{name}.safetensors")
        with atomic_write(file) as partial:
            partial.write_text(json.dumps(KIND.header({"cache": f"{name}.safetensors", **content}), indent=2))
        (folder / f"{other}.safetensors").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write {folder} ({error}); give a folder that can be written.") from error


def load_stream(folder: Path, device: torch.device) -> tuple[KVCache, dict[str, Any]]:
    """What `save_stream` wrote.

    Raises `InputError` where there is none, or it is damaged or of another version.
    """
    file = folder / "stream.json"
    if not file.exists():
        raise InputError(f"There is no saved stream at {folder}.")
    with KIND.reading(folder):
        content = json.loads(file.read_text())
        KIND.check(content, folder)
        return KVCache.load(folder / content["cache"], device), content
