"""A stream on disk: its cache in one file, the rest as JSON that names this file and is replaced last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memkit.errors import FileError
from memkit.files.atomic import writing
from memkit.files.checksums import stated_checksum
from memkit.files.json_files import read_json, write_json
from memkit.files.tensors import FileKind
from memkit.injectors.kv_cache.cache import KVCache

KIND = FileKind("saved stream", "memkit-stream", 1)


def save_stream(folder: Path, cache: KVCache, content: dict[str, Any]) -> None:
    """Write both to ``folder``; until all is written, `load_stream` finds what was saved there before.

    Raises `FileError` where it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "stream.json"
        before = file.read_bytes() if file.exists() else b""
        name, other = ("b", "a") if b'"cache": "a.safetensors"' in before else ("a", "b")
        cache.save(path := folder / f"{name}.safetensors")
        saved = {"cache": path.name, "cache_is": stated_checksum(path)}
        write_json(file, KIND.header({**saved, **content}))
        (folder / f"{other}.safetensors").unlink(missing_ok=True)


def load_stream(folder: Path, device: torch.device) -> tuple[KVCache, dict[str, Any]]:
    """What `save_stream` wrote.

    Raises `InputError` where there is none, or it is damaged or of another version.
    """
    file = folder / "stream.json"
    if not file.exists():
        raise FileError(f"There is no saved stream at {folder}; check the path.")
    with KIND.reading(folder):
        content = read_json(file, "save the stream again")
        KIND.check(content, folder)
        if content["cache"] not in ("a.safetensors", "b.safetensors"):  # it must not lead out of the folder
            raise FileError(f"{file} names the cache {content['cache']!r}, which save() does not write; save it again.")
        path = folder / content["cache"]
        if path.exists() and content.get("cache_is") not in (None, stated_checksum(path)):
            raise FileError(f"{path} is not the cache that {file} was saved with; restore both from one copy.")
        return KVCache.load(path, device), content
