"""Keys and values in fewer bits as floating-point numbers: bf16, or fp8 with one scale per channel.

bf16 is what published causal models cache. fp8 is E4M3, whose largest number is 448: each channel of a frame is scaled
so that its largest absolute value is that. That scales are per channel and frame is our reading; LongLive-2.0
(arXiv 2605.18739) has a scale per 16 numbers and a format of 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames, Storage, Stored

_TINY = 1e-12


@dataclass(frozen=True)
class BFloat16(Storage):
    """Keys and values in bf16: half the bytes of fp32, at a relative error of at most 2⁻⁸; exact for a bf16 model."""

    def encode(self, frames: Frames) -> Stored:
        return tuple(x.to(torch.bfloat16) for x in frames)

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        k, v = stored
        return k.to(layout.dtype), v.to(layout.value_dtype)


@dataclass(frozen=True)
class Float8(Storage):
    """Keys and values in fp8 (E4M3), with one fp32 scale per channel of a frame: a relative error of at most 2⁻⁴."""

    def encode(self, frames: Frames) -> Stored:
        return tuple(part for x in frames for part in _scaled(x))

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        k, k_scale, v, v_scale = stored
        k, v = (x.view(torch.float8_e4m3fn).float() for x in (k, v))
        return (k * k_scale).to(layout.dtype), (v * v_scale).to(layout.value_dtype)


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B, F, T, H, D] in fp8, as bytes, which every device can index, and the scales [B, F, 1, H, D]."""
    kind = torch.float8_e4m3fn
    scale = x.float().abs().amax(2, keepdim=True).clamp(min=_TINY) / torch.finfo(kind).max
    return (x.float() / scale).to(kind).view(torch.uint8), scale
