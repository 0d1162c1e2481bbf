"""Keys and values as integers of 8 or 4 bits: KIVI (arXiv 2402.02750), as LightX2V applies it to causal video models.

Keys have outliers in a few channels, values have not: so keys are quantised per channel, in groups of ``group`` tokens
of a frame, and values per token and head. Each group has its minimum and its step. LightX2V's groups are of 64 tokens
with a scale and a minimum in fp16, which is 4.5 bits or 8.5 bits per number. That values are grouped over the channels
of a head is our reading, and that minimum and step are fp32 for a model in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from memkit.checks import check_fields, has_values
from memkit.errors import InputError
from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames, Storage, Stored


@dataclass(frozen=True)
class Integers(Storage):
    """Keys and values in ``bits`` bits each, with a minimum and a step per group; see the top of the file.

    Attributes:
        bits: 8, or 4 with two numbers per byte.
        group: tokens of a frame that share minimum and step in each channel of the keys.
    """

    bits: Literal[8, 4] = 8
    group: int = 64

    def __post_init__(self) -> None:
        check_fields(self, group=(2, 2**20))

    def encode(self, frames: Frames) -> Stored:
        k, v = frames
        group = min(self.group, k.shape[2])
        k = _padded(k, -k.shape[2] % group).unflatten(2, (-1, group))  # [B, F, groups, tokens, H, D]
        return *self._quantised(k, 3), *self._quantised(v, 4)

    def decode(self, stored: Stored, layout: FrameLayout) -> Frames:
        group = min(self.group, layout.tokens)
        k = self._restored(*stored[:3], 3, group).flatten(2, 3)[:, :, : layout.tokens]
        v = self._restored(*stored[3:], 4, layout.value_dim)
        return k.to(layout.dtype), v.to(layout.value_dtype)

    def _quantised(self, x: Tensor, dim: int) -> Stored:
        """Whole numbers, minimum and step, for groups that run along ``dim``."""
        low, high = (end.float() for end in (x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)))
        low, step = _scales(low, x.dtype), _scales((high - low) / (2**self.bits - 1), x.dtype)
        steps = (x.float() - low.float()) / step.float().clamp(min=torch.finfo(torch.float32).tiny)
        whole = steps.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8)
        return (_packed(whole, dim) if self.bits == 4 else whole), low, step

    def _restored(self, whole: Tensor, low: Tensor, step: Tensor, dim: int, length: int) -> Tensor:
        if self.bits == 4:
            whole = torch.stack([whole & 15, whole >> 4], dim + 1).flatten(dim, dim + 1).narrow(dim, 0, length)
        return whole.float() * step.float() + low.float()


def _scales(x: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float32:
        return x
    if has_values(x) and bool((x.abs() > torch.finfo(torch.float16).max).any()):
        raise InputError("Keys or values are beyond ±65504, where a minimum in fp16 ends; store them in fp8 or bf16.")
    return x.to(torch.float16)


def _packed(whole: Tensor, dim: int) -> Tensor:
    """Two numbers of 4 bits per byte, along ``dim``."""
    whole = _padded(whole, whole.shape[dim] % 2, dim)
    low, high = whole.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return low | high << 4


def _padded(x: Tensor, more: int, dim: int = 2) -> Tensor:
    """``x`` with its last entry along ``dim`` repeated, which changes no minimum and no maximum."""
    return x if more == 0 else torch.cat([x, x.narrow(dim, x.shape[dim] - 1, 1).repeat_interleave(more, dim)], dim)
