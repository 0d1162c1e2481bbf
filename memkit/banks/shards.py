"""Shards: the safetensors files that hold the clips of a bank."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.errors import BankError, InputError
from memkit.files.atomic import atomic_write, sync_folder

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_OPEN_SHARDS = 128  # memory maps that a reader keeps open


@dataclass(frozen=True)
class Entry:
    """A clip in the manifest. ``sha256`` covers every field here and all bytes of its tensors."""

    id: str
    caption: str
    source: str | None
    shape: list[int]
    dtype: str
    cameras: bool
    sha256: str = ""
    shard: int = -1  # not committed yet

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the clip in its line of the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "shard"}


class Shard(NamedTuple):
    """A file of clips, as the manifest states it."""

    name: str
    bytes: int
    sha256: str


class Shards:
    """The shards of the bank at ``path``, by number. A clip has latents and, with cameras, c2w and intrinsics."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path / "shards"
        self._open = lru_cache(_OPEN_SHARDS)(self._map)

    def write(self, number: int, clips: dict[str, dict[str, Tensor]]) -> Shard:
        """Write the tensors of each id, replacing what an interrupted write left under this number."""
        data = safetensors.torch.save({f"{id}/{name}": t for id, clip in clips.items() for name, t in clip.items()})
        shard = Shard(shard_name(number), len(data), hashlib.sha256(data).hexdigest())
        with atomic_write(self._folder / shard.name) as partial:
            partial.write_bytes(data)
        sync_folder(self._folder)
        return shard

    def read(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of a committed clip, memory-mapped."""
        return self._read(entry, self._open(entry.shard))

    def damage(self, number: int, shard: Shard, entries: list[Entry]) -> list[str]:
        """One line per difference between this shard and its description in the manifest."""
        clips = f"holds {len(entries)} clips from {entries[0].id!r} to {entries[-1].id!r}"
        try:
            with open(self._folder / shard.name, "rb") as stored:
                digest = hashlib.file_digest(stored, "sha256").hexdigest()
            file = self._map(number)  # not one that is open already: it may show the shard as it was
        except (OSError, BankError) as error:
            return [f"shard {shard.name}: {error} ({clips})"]
        faults = {entry.id: self._fault(entry, file) for entry in entries}
        lines = [f"shard {shard.name}, clip {id!r}: {fault}" for id, fault in faults.items() if fault]
        if digest != shard.sha256 and not lines:
            lines.append(f"shard {shard.name}: its header does not match its checksum ({clips})")
        return lines

    def _fault(self, entry: Entry, file: safe_open) -> str | None:
        try:
            tensors = self._read(entry, file)
        except BankError as error:
            return str(error)
        if _digest(entry, tensors) != entry.sha256:
            return "it does not match its checksum"
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            return "it has values that are not finite"
        return None

    def _read(self, entry: Entry, file: safe_open) -> dict[str, Tensor]:
        names = ("latents", "c2w", "intrinsics") if entry.cameras else ("latents",)
        try:
            tensors = {name: file.get_tensor(f"{entry.id}/{name}") for name in names}
        except SafetensorError as error:
            raise BankError(f"clip {entry.id!r} of {self._path} cannot be read: {error}; run verify().") from error
        latents = tensors["latents"]
        if list(latents.shape) != entry.shape or latents.dtype != DTYPES[entry.dtype]:
            raise BankError(f"clip {entry.id!r} of {self._path} is not as its manifest says; run verify().")
        return tensors

    def _map(self, number: int) -> safe_open:
        file = self._folder / shard_name(number)
        try:
            return safe_open(str(file), "pt")
        except (OSError, SafetensorError) as error:
            raise BankError(f"{file} cannot be read: {error}; run verify().") from error


def checked(
    id: str, latents: Tensor, caption: str, source: str | None, cameras: Cameras | None
) -> tuple[Entry, dict[str, Tensor]]:
    """The manifest entry of a clip and copies of its tensors; raises `InputError` for a clip that cannot be stored."""
    if not isinstance(caption, str) or not isinstance(id, str):
        raise InputError(f"Clip {id!r}: the id and the caption must be texts, not {id!r} and {caption!r}.")
    try:
        f"{id}{caption}{source}".encode()
    except UnicodeEncodeError as error:
        raise InputError(f"A text of clip {id!r} is not valid Unicode ({error}); read its file as UTF-8.") from error
    if not id or not id.isprintable():
        raise InputError(f"{id!r} cannot be the id of a clip; give one or more printable characters.")
    if latents.ndim != 4 or not latents.numel():
        raise InputError(f"Clip {id!r}: latents must be [C, T, H, W] and not empty, not {tuple(latents.shape)}.")
    if latents.dtype not in _DTYPE_NAMES:
        raise InputError(f"Clip {id!r}: latents are {latents.dtype}; convert them to bf16, fp16, fp32 or fp64.")
    tensors = {"latents": latents}
    if cameras is not None:
        tensors |= {"c2w": cameras.c2w, "intrinsics": cameras.intrinsics}
        frames = latents.shape[1]
        if cameras.c2w.shape != (frames, 4, 4) or cameras.intrinsics.shape != (frames, 4):
            raise InputError(
                f"Clip {id!r} has {frames} latent frames but cameras {tuple(cameras.c2w.shape)}; give one per frame."
            )
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"Clip {id!r}: {name} has values that are not finite; encode it again, or leave it out.")
    if cameras is not None:
        check_cameras(cameras, f"Clip {id!r}", unknown_focal=True)
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    entry = Entry(id, caption, source, list(latents.shape), _DTYPE_NAMES[latents.dtype], cameras is not None)
    return replace(entry, sha256=_digest(entry, tensors)), tensors


def _digest(entry: Entry, tensors: dict[str, Tensor]) -> str:
    fields = {name: value for name, value in entry.fields.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def shard_name(number: int) -> str:
    """Name of the file of a shard."""
    return f"{number:06d}.safetensors"


def append_synced(path: Path, offset: int, line: bytes) -> None:
    """Write a line at the end of what is committed; on failure the file ends there again or in a torn line."""
    with open(path, "r+b") as file:
        file.seek(offset)
        try:
            file.write(line)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, offset)
            raise
