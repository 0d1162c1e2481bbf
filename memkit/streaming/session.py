"""A stream on disk: its cache in one file, the rest as JSON that names this file and is replaced last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.wan import WanBackbone
from memkit.checks import check_whole
from memkit.errors import FileError, InputError
from memkit.files.atomic import writing
from memkit.files.checksums import stated_checksum
from memkit.files.json_files import read_json, write_json
from memkit.files.tensors import FileKind, open_tensors, save_tensors
from memkit.files.values import check_types
from memkit.injectors.kv_cache.cache import KVCache
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.streaming.recent import Recent

_HINTS = {"cache": str, "seeds": list[int], "position": int, "size": tuple[int, int]}
KIND = FileKind("saved stream", "memkit-stream", 1)


LATENTS, LATENTS_KEY = FileKind("saved latents", "memkit-stream-latents", 1), "latents"


def save_stream(folder: Path, cache: KVCache, content: dict[str, Any], recent: Recent | None = None) -> None:
    """Write all to ``folder``; until all is written, `load_stream` finds what was saved there before.

    Raises `FileError` where it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "stream.json"
        before = file.read_bytes() if file.exists() else b""
        name, other = ("b", "a") if b'"cache": "a.safetensors"' in before else ("a", "b")
        cache.save(path := folder / f"{name}.safetensors")
        saved = {"cache": path.name, "cache_is": stated_checksum(path)}
        if recent is not None:
            about, tensors = recent.content()
            save_tensors(folder / _latents_of(path.name), LATENTS, LATENTS_KEY, about, tensors)
            saved["latents_are"] = stated_checksum(folder / _latents_of(path.name))
        write_json(file, KIND.header({**saved, **content}))
        (folder / f"{other}.safetensors").unlink(missing_ok=True)
        (folder / _latents_of(f"{other}.safetensors")).unlink(missing_ok=True)


def load_stream(folder: Path, device: torch.device, parts: CacheParts) -> tuple[KVCache, dict[str, Any], Recent | None]:
    """What `save_stream` wrote; ``parts`` are those of the cache.

    Raises `InputError` where there is none, or it is damaged or of another version.
    """
    file = folder / "stream.json"
    if not file.exists():
        raise FileError(f"There is no saved stream at {folder}; check the path.")
    with KIND.reading(folder):
        content = read_json(file, "save the stream again")
        KIND.check(content, folder)
        _check_content(content, file)
        if content["cache"] not in ("a.safetensors", "b.safetensors"):  # it must not lead out of the folder
            raise FileError(f"{file} names the cache {content['cache']!r}, which save() does not write; save it again.")
        path = folder / content["cache"]
        if path.exists() and content.get("cache_is") not in (None, stated_checksum(path)):
            raise FileError(f"{path} is not the cache that {file} was saved with; restore both from one copy.")
        recent = None
        if (latents_are := content.get("latents_are")) is not None:
            latents = folder / _latents_of(path.name)
            with open_tensors(latents, LATENTS, LATENTS_KEY, device) as (header, opened):
                recent = Recent.of(header, opened.get_tensor)
            if latents_are != stated_checksum(latents):
                raise FileError(f"{latents} is not what {file} was saved with; restore both from one copy.")
        return KVCache.load(path, device, parts), content, recent


def _latents_of(cache: str) -> str:
    return cache.replace(".safetensors", "-latents.safetensors")


def _check_content(content: dict[str, Any], file: Path) -> None:
    try:
        check_types(content, _HINTS, str(file), "save the stream again")
        check_whole(f"{file}: position", content["position"])
    except InputError as error:
        raise FileError(str(error)) from error


def model_of(backbone: WanBackbone) -> dict[str, Any]:
    """What a model must have in common with the one that a stream was saved with."""
    sizes = [adapter_of(model).sizes(model) for model in backbone.transformers]
    first = sizes[0]
    return {
        "layers": sum(each.layers for each in sizes),
        "heads": first.heads,
        "head_dim": first.head_dim,
        "channels": backbone.transformer.config.in_channels,
        "patch_size": list(first.patch_size),
        "dtype": str(backbone.transformer.dtype).removeprefix("torch."),
    }


def check_model(
    folder: Path, cache: KVCache, content: dict[str, Any], size: tuple[int, int], backbone: WanBackbone
) -> None:
    """Raises `InputError` where a saved stream is of a model of other sizes or dtype, or its cache of another size."""
    own = model_of(backbone)
    saved = content.get("model", own)  # streams that were saved by earlier versions do not tell
    if different := [f"{name} {saved.get(name)}, not {own[name]}" for name in own if saved.get(name) != own[name]]:
        raise InputError(
            f"The stream at {folder} was saved with another model: {', '.join(different)}; load it with the model that "
            "made it."
        )
    _, down, across = own["patch_size"]
    rows, columns = size[0] // down, size[1] // across
    for name in cache.branches:
        branch = cache.branch(name)
        if not branch.positions:
            continue
        branch.check_frame_size((rows, columns))
        held = branch.layer(0).layout
        assert held is not None
        found = (branch.layers, held.tokens, held.heads, held.dim)
        wanted = (own["layers"], rows * columns, own["heads"], own["head_dim"])
        if found != wanted or held.batch != len(content["seeds"]):
            raise InputError(
                f"The cache of the stream at {folder} has layers, tokens per frame, heads and their width {found} of "
                f"{held.batch} videos, the model and the stream {wanted} of {len(content['seeds'])}; load it with "
                "the model that made it."
            )
