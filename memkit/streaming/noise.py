"""Noise that follows from a video's seed and a frame's position alone: no generator to carry along, or to save."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def frame_noise(
    seeds: Sequence[int], kind: str, positions: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "videos channels frames height width"]:
    """Normal noise on the CPU: a frame of ``shape`` [C,H,W] for each position, for each video one seed.

    ``kind`` names what it is for; other names give other noise.
    """
    return torch.stack([torch.stack([_drawn(f"{seed} {kind} {p}", shape) for p in positions], dim=1) for seed in seeds])


def _drawn(name: str, shape: tuple[int, int, int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
