"""Keys and values in NVFP4: 4-bit floating-point numbers with a scale per 16 of them (LongLive-2.0, arXiv 2605.18739).

A number is one of ±{0, 0.5, 1, 1.5, 2, 3, 4, 6} (E2M1), times the scale of its block of 16 channels of a head in fp8
(E4M3), times the scale of the whole tensor. Of keys, the mean over the channels of a head is taken out first. It is
emulated: two numbers per byte are decoded before attention, as LongLive-2.0 does too. That the tensor is one frame in
one layer, and that the mean is held in the dtype of the keys, is our reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames, Storage, Stored

BLOCK = 16
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TINY = 1e-30


@dataclass(frozen=True)
class NVFP4(Storage):
    """Keys and values in 4.5 bits each, and a mean per key: errors are at most 0.18 of the largest number of a block.

    A width of heads that 16 does not divide is padded.
    """

    def encode(self, frames: Frames) -> Stored:
        k, v = frames
        mean = k.float().mean(-1, keepdim=True).to(k.dtype)
        return *_quantised(k.float() - mean.float()), mean, *_quantised(v.float())

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        k, v = _restored(*stored[:3], layout.dim), _restored(*stored[4:], layout.value_dim)
        return (k + stored[3].float()).to(layout.dtype), v.to(layout.value_dtype)


def _quantised(x: Tensor) -> Stored:
    """[B, F, T, H, D] as bytes with two numbers each, scales of blocks as bytes, and one scale per sample and frame."""
    x = pad(x, (0, -x.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    most = x.abs().amax(-1, keepdim=True)
    kind = torch.float8_e4m3fn
    whole = most.amax((2, 3, 4, 5), keepdim=True).clamp(min=_TINY) / (_VALUES[-1] * torch.finfo(kind).max)
    scale = (most / _VALUES[-1] / whole).to(kind)
    size = (x / (scale.float() * whole).clamp(min=_TINY)).abs()
    code = torch.zeros_like(size, dtype=torch.uint8)
    for number, (low, high) in enumerate(zip(_VALUES, _VALUES[1:], strict=False)):
        middle = (low + high) / 2
        code += size >= middle if number % 2 else size > middle  # ties go to the even code
    code |= (x < 0).to(torch.uint8) << 3
    low, high = code.flatten(-2).unflatten(-1, (-1, 2)).unbind(-1)
    return low | high << 4, scale.view(torch.uint8).squeeze(-1), whole.squeeze(-1)


def _restored(codes: Tensor, scale: Tensor, whole: Tensor, width: int) -> Tensor:
    codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    values = torch.tensor((*_VALUES, *(-x for x in _VALUES)), device=codes.device)
    scale = scale.view(torch.float8_e4m3fn).float() * whole
    return (values[codes.long()].unflatten(-1, (-1, BLOCK)) * scale[..., None]).flatten(-2)[..., :width]
