"""Wans with random weights, of the sizes that the subjects need."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel

from benchmarks.performance.rows import Bench

TEXT_DIM = 64


def wan(bench: Bench, heads: int, head_dim: int, layers: int, ffn_dim: int) -> Any:
    """A frozen Wan in the bench's dtype and on its device; the same weights for the same sizes."""
    torch.manual_seed(0)
    model: Any = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=head_dim, num_layers=layers, ffn_dim=ffn_dim, text_dim=TEXT_DIM
    )
    return model.to(bench.device).to(bench.dtype).eval().requires_grad_(False)
