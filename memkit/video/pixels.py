"""Pixels: uint8 RGB as files have it, floats in [-1, 1] as models take them, and in [0, 1] as renderers give them."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_model(
    frames: UInt8[Tensor, "time height width 3"] | UInt8[Tensor, "batch time height width 3"],
) -> Float[Tensor, "videos 3 time height width"]:
    """Frames as a model takes them: channels first, float32 in [-1, 1]; a single clip becomes a batch of one."""
    batch = frames if frames.ndim == 5 else frames[None]
    return (batch.movedim(-1, 1).float() / 127.5 - 1).contiguous()


def from_model(video: Float[Tensor, "1 3 time height width"]) -> UInt8[Tensor, "time height width 3"]:
    """Frames of a model's output; values outside [-1, 1] are clipped. The inverse of `to_model` for a single clip."""
    return batch_from_model(video)[0]


def batch_from_model(
    video: Float[Tensor, "batch 3 time height width"],
) -> UInt8[Tensor, "batch time height width 3"]:
    """`from_model` of several videos."""
    return ((video.float() + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).contiguous()


def to_uint8(rgb: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Colours in [0, 1] as bytes; values outside are clipped."""
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)
