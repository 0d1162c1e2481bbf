"""Rotary positions as Wan applies them: pairs interleaved, angles given as (cos, sin) tables."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(
    x: Float[Tensor, "batch tokens heads dim"],
    cos: Float[Tensor, "#batch tokens 1 dim"],
    sin: Float[Tensor, "#batch tokens 1 dim"],
) -> Float[Tensor, "batch tokens heads dim"]:
    """Rotate each pair (x[2i], x[2i+1]) by its angle; the same arithmetic, to the bit, as diffusers' Wan processor."""
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out.type_as(x)
