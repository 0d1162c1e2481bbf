"""Noise that follows from a video's seed and a frame's position alone: there is no generator state to keep or save.

Both engines for long videos draw by this rule, `Stream` and `Rollout`: no noise repeats within a video, and a chunk can
be generated again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def frame_noise(
    seeds: Sequence[int], kind: str, positions: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "videos channels frames height width"]:
    """Normal noise on the CPU, of ``shape`` [C,H,W] per frame: one video per seed, one frame per position.

    ``kind`` names the purpose; each kind has its own noise.
    """
    return torch.stack([torch.stack([_draw(f"{seed} {kind} {p}", shape) for p in positions], dim=1) for seed in seeds])


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per seed, on the CPU whatever the device of the model."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _draw(name: str, shape: tuple[int, int, int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
