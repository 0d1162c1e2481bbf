"""A clip and a shard as the manifest of a bank states them, and the checks of what may be a clip."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.errors import InputError
from memkit.files.json_files import line_of, row_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_DIGEST = re.compile("[0-9a-f]{64}")
_LINE_FIELDS = {"shard", "bytes", "sha256", "clips"}
_CLIP_FIELDS = {"id", "caption", "source", "shape", "dtype", "cameras", "sha256"}


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

    @property
    def nbytes(self) -> int:
        """Bytes of the clip's latents."""
        return DTYPES[self.dtype].itemsize * math.prod(self.shape)

    def digest(self, tensors: dict[str, Tensor]) -> str:
        """What ``sha256`` is of these tensors."""
        fields = {name: value for name, value in self.fields.items() if name != "sha256"}
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        for name, tensor in tensors.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


class Shard(NamedTuple):
    """A file of clips, as the manifest states it."""

    name: str
    bytes: int
    sha256: str


def shard_name(number: int) -> str:
    """Name of the file of a shard."""
    return f"{number:06d}.safetensors"


# -- Lines of the manifest -----------------------------------------------------------------------------------------


def to_line(shard: Shard, entries: Sequence[Entry]) -> bytes:
    """The line of the manifest that commits a shard and its clips."""
    record = {"shard": shard.name, "bytes": shard.bytes, "sha256": shard.sha256}
    return line_of(record | {"clips": [entry.fields for entry in entries]}).encode()


def from_line(line: bytes, number: int) -> tuple[Shard, list[Entry]]:
    """The shard with this number and its clips; raises `ValueError`, with the reason, for any other line."""
    record = row_of(line)
    if record.keys() != _LINE_FIELDS or not isinstance(record["clips"], list) or not record["clips"]:
        raise ValueError("it does not describe a shard and its clips")
    if record["shard"] != shard_name(number):
        raise ValueError(f"it is out of order: it names {record['shard']!r:.40} in the place of {shard_name(number)}")
    if not _is_count(record["bytes"]) or not _is_digest(record["sha256"]):
        raise ValueError("the size or the checksum of its shard is none")
    shard = Shard(record["shard"], record["bytes"], record["sha256"])
    entries = [_entry(fields, number) for fields in record["clips"]]
    if sum(entry.nbytes for entry in entries) > shard.bytes:
        raise ValueError("its clips are larger than its shard")
    return shard, entries


def _entry(fields: Any, number: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != _CLIP_FIELDS:
        raise ValueError("a clip lacks a field, or has one too many")
    id, shape, dtype = fields["id"], fields["shape"], fields["dtype"]
    if problem := _problem_of_texts(id, fields["caption"], fields["source"]):
        raise ValueError(problem)
    if not isinstance(shape, list) or len(shape) != 4 or not all(_is_count(size) for size in shape):
        raise ValueError(f"clip {id!r} has no shape [C, T, H, W]")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"clip {id!r} has the dtype {dtype!r:.40}, not one of {', '.join(DTYPES)}")
    if not isinstance(fields["cameras"], bool) or not _is_digest(fields["sha256"]):
        raise ValueError(f"clip {id!r} has no checksum, or does not say whether it has cameras")
    return Entry(**fields, shard=number)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _problem_of_texts(id: Any, caption: Any, source: Any) -> str | None:
    """Why these cannot be the texts of a clip."""
    if not isinstance(caption, str) or not isinstance(id, str):
        return f"Clip {id!r:.80}: the id and the caption must be texts, not {id!r:.80} and {caption!r:.80}"
    if source is not None and not isinstance(source, str):
        return f"Clip {id!r}: the source must be a text or None, not {source!r:.80}"
    try:
        f"{id}{caption}{source}".encode()
    except UnicodeEncodeError as error:
        return f"A text of clip {id!r} is not valid Unicode ({error}); read its file as UTF-8"
    if not id or not id.isprintable():
        return f"{id!r} cannot be the id of a clip; give one or more printable characters"
    return None


# -- Clips to be stored --------------------------------------------------------------------------------------------


def checked(
    id: str, latents: Tensor, caption: str, source: str | None, cameras: Cameras | None
) -> tuple[Entry, dict[str, Tensor]]:
    """The manifest entry of a clip and copies of its tensors; raises `InputError` for a clip that cannot be stored."""
    if problem := _problem_of_texts(id, caption, source):
        raise InputError(f"{problem}.")
    if not isinstance(latents, Tensor) or latents.layout != torch.strided or latents.is_meta:
        raise InputError(f"Clip {id!r}: latents must be a dense tensor with values, not {_kind(latents)}.")
    if latents.ndim != 4 or not latents.numel():
        raise InputError(f"Clip {id!r}: latents must be [C, T, H, W] and not empty, not {tuple(latents.shape)}.")
    if latents.dtype not in _DTYPE_NAMES:
        raise InputError(f"Clip {id!r}: latents are {latents.dtype}; convert them to bf16, fp16, fp32 or fp64.")
    tensors = {"latents": latents}
    if cameras is not None:
        _check_kind(id, cameras, latents.shape[1])
        tensors |= {"c2w": cameras.c2w, "intrinsics": cameras.intrinsics}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"Clip {id!r}: {name} has values that are not finite; encode it again, or leave it out.")
    if cameras is not None:
        check_cameras(cameras, f"Clip {id!r}", unknown_focal=True)
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    entry = Entry(id, caption, source, list(latents.shape), _DTYPE_NAMES[latents.dtype], cameras is not None)
    return replace(entry, sha256=entry.digest(tensors)), tensors


def _check_kind(id: str, cameras: Cameras, frames: int) -> None:
    if not isinstance(cameras, Cameras) or not all(isinstance(x, Tensor) for x in (cameras.c2w, cameras.intrinsics)):
        raise InputError(f"Clip {id!r}: cameras must be memkit.Cameras with tensors, or None, not {_kind(cameras)}.")
    if cameras.c2w.shape != (frames, 4, 4) or cameras.intrinsics.shape != (frames, 4):
        raise InputError(
            f"Clip {id!r} has {frames} latent frames but cameras {tuple(cameras.c2w.shape)}; give one per frame."
        )
    if not {cameras.c2w.dtype, cameras.intrinsics.dtype} <= _DTYPE_NAMES.keys():
        raise InputError(f"Clip {id!r}: cameras are {cameras.c2w.dtype}; convert them to a floating-point dtype.")


def _kind(value: object) -> str:
    return f"a {value.layout} tensor on {value.device}" if isinstance(value, Tensor) else type(value).__name__
