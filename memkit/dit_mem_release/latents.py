"""The ``.pt`` latents of a DiT-Mem release, read without running what a file may hold.

A file holds one clip, ``{latent, video_id, shape, dtype}``: normalised latents of Wan's VAE, in the release bf16
[16, 21, 60, 104]. The release loads it in a way that runs any code in it; here only tensors and plain values are read.
"""

from __future__ import annotations

import os
import zipfile
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.files.tensors import read_torch


class ReleasedLatents(NamedTuple):
    """Latents of a clip, in the dtype in which they were saved, and the id that the file states, if any."""

    latents: Float[Tensor, "channels time height width"]
    video_id: str | None

    __repr__ = with_shapes


def read_released_latents(path: str | os.PathLike[str]) -> ReleasedLatents:
    """One ``.pt`` file of the release. ``shape`` and ``dtype`` are checked where the file states them.

    Nothing in the file is executed. Raises `InputError` naming the file where it is damaged, asks for anything but
    tensors and plain values, lacks ``latent``, or where that is not [C, T, H, W], not as stated, or not finite.
    """
    content = _load(path)
    if not isinstance(content, dict) or "latent" not in content:
        found = f"the keys {', '.join(map(str, content)) or 'none'}" if isinstance(content, dict) else type(content)
        raise InputError(f"{path} has no key latent (it holds {found}); give the .pt latents of the release.")
    latents, shape, dtype = content["latent"], content.get("shape"), content.get("dtype")
    if not isinstance(latents, Tensor) or latents.layout != torch.strided or latents.device.type != "cpu":
        raise InputError(f"{path}: latent is no plain tensor; encode the clip again.")
    if latents.ndim != 4 or not latents.numel() or not latents.is_floating_point():
        raise InputError(
            f"{path}: latent is {_short(latents.dtype)} {tuple(latents.shape)}, not floating point [C, T, H, W]; "
            f"encode the clip again."
        )
    if latents.nbytes > latents.untyped_storage().nbytes():  # one number, spread over a shape that fills the memory
        raise InputError(f"{path}: latent claims {tuple(latents.shape)} but holds fewer values; encode the clip again.")
    sizes = list(shape) if isinstance(shape, list | tuple) and all(isinstance(n, int) for n in shape) else None
    if shape is not None and sizes != list(latents.shape):
        raise InputError(f"{path} states shape {shape!r:.80} but holds {tuple(latents.shape)}; encode the clip again.")
    if dtype is not None and _short(dtype) != _short(latents.dtype):
        raise InputError(
            f"{path} states dtype {_short(dtype)} but holds {_short(latents.dtype)}; encode the clip again."
        )
    if not bool(latents.isfinite().all()):
        raise InputError(f"{path}: latent has values that are not finite; encode the clip again.")
    video_id = content.get("video_id")
    return ReleasedLatents(latents.detach(), None if video_id is None else str(video_id))


def _load(path: str | os.PathLike[str]) -> object:
    """Tensors and plain values of a torch file; torch's advice, to read it with code allowed, is not passed on."""
    if not os.path.isfile(path):
        raise InputError(f"There is no file {path}; give the .pt latents of the release.")
    remedy = "fetch it again, or encode the clip again and save its tensor and plain values alone"
    try:
        with zipfile.ZipFile(path) as file:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
    except Exception as error:  # zipfile has many types for a damaged file; bare pickles are not tried
        raise InputError(
            f"{path} is damaged or cut off, or was not written by torch.save ({error}); {remedy}."
        ) from error
    if compressed:  # its content may be of any size
        raise InputError(f"{path} is a compressed archive, which torch.save does not write; {remedy}.")
    return read_torch(path, remedy)


def _short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
