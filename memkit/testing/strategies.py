"""hypothesis strategies for what passes between the parts: latents, clips, memories, cameras, visibility tables.

Shapes are drawn by hypothesis, which shrinks them; values come from a seed that it draws, as normal variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.memory import Memory
from memkit.testing.measures import normal

Sizes = SearchStrategy[tuple[int, int, int]]
"""Draws time, height and width."""

SEEDS = st.integers(0, 2**31)
GROUPS = ("a", "b", "c")


def grids(time: int = 6, height: int = 9, width: int = 9) -> Sizes:
    """Sizes of latents from 1 up to these: time, height, width in latent cells."""
    return st.tuples(st.integers(1, time), st.integers(1, height), st.integers(1, width))


@st.composite
def latents(
    draw: Any,
    channels: int = 16,
    sizes: Sizes | None = None,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Latents [B, channels, T, H, W] with up to ``batch`` samples; ``sizes`` draws T, H and W."""
    shape = (draw(st.integers(1, batch)), channels, *draw(grids() if sizes is None else sizes))
    return normal(draw(SEEDS), *shape, dtype=dtype)


class Clips(NamedTuple):
    """Memory clips as an encoder takes them."""

    latents: Tensor
    """[B, N, C, T, H, W]."""
    mask: Tensor
    """[B, N], True for real clips, of which every sample has one at least."""

    def __repr__(self) -> str:
        return f"Clips({list(self.latents.shape)}, mask {self.mask.int().tolist()})"


@st.composite
def clips(
    draw: Any,
    channels: int = 16,
    sizes: Sizes | None = None,
    batch: int = 2,
    count: int = 3,
    dtype: torch.dtype = torch.float32,
) -> Clips:
    """Latents [B, N, channels, T, H, W] of up to ``count`` clips for up to ``batch`` samples, and a mask."""
    rows, number = draw(st.integers(1, batch)), draw(st.integers(1, count))
    size = draw(grids() if sizes is None else sizes)
    real = st.lists(st.booleans(), min_size=number, max_size=number).filter(any)
    mask = torch.tensor([draw(real) for _ in range(rows)])
    return Clips(normal(draw(SEEDS), rows, number, channels, *size, dtype=dtype), mask)


@st.composite
def memories(draw: Any, dim: int, batch: int = 2, tokens: int = 7, gate: tuple[int, int] | None = None) -> Memory:
    """Memories of width ``dim``: up to ``tokens`` tokens for each of ``batch`` samples, with or without a mask, with or
    without log-weights, and with a gate in (-1, 1) where ``gate`` gives its layers and heads."""
    count, seed = draw(st.integers(1, tokens)), draw(SEEDS)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, count, dim, generator=generator)
    mask = torch.rand(batch, count, generator=generator) < 0.6 if draw(st.booleans()) else None
    weight = torch.randn(batch, count, generator=generator) if draw(st.booleans()) else None
    opened = None if gate is None else torch.randn(*gate, generator=generator).tanh()
    return Memory(values, mask, weight, opened)


@st.composite
def cameras(draw: Any, frames: int = 5, batch: int | None = None, metres: float = 8.0) -> Cameras:
    """Cameras [frames], or [batch, frames]: any rotation, a position within ±``metres``, fx and fy from 0.4 to 1.5."""
    shape = (frames,) if batch is None else (batch, frames)
    generator = torch.Generator().manual_seed(draw(SEEDS))
    rotation = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator)).Q
    c2w = torch.eye(4).repeat(*shape, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = metres * (2 * torch.rand(*shape, 3, generator=generator) - 1)
    focal = 0.4 + 1.1 * torch.rand(*shape, 2, generator=generator)
    return Cameras(c2w, torch.cat([focal, torch.full((*shape, 2), 0.5)], dim=-1))


class VisibilityTable(NamedTuple):
    """Arguments of `memkit.attention.grouped_attention`."""

    q: dict[str, Tensor]
    kv: dict[str, tuple[Tensor, Tensor]]
    sees: dict[str, tuple[str, ...]]
    log_weight: dict[str, Tensor]


@st.composite
def tables(draw: Any, dtypes: Sequence[torch.dtype] = (torch.float32,), length: int = 5) -> VisibilityTable:
    """Up to three groups of up to ``length`` queries and keys, with any visibility and some log-weights, −inf too."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    dtype = draw(st.sampled_from(list(dtypes)))
    batch, heads, dim, vdim = (draw(st.integers(1, 3)) for _ in range(4))
    asked = draw(st.lists(st.sampled_from(GROUPS), unique=True, min_size=1))
    held = draw(st.lists(st.sampled_from(GROUPS), unique=True, min_size=1))
    sizes = {g: draw(st.integers(0, length)) for g in GROUPS}

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q = {g: values(batch, sizes[g], heads, dim) for g in asked}
    kv = {g: (values(batch, sizes[g], heads, dim), values(batch, sizes[g], heads, vdim)) for g in held}
    sees = {g: tuple(draw(st.lists(st.sampled_from(held), unique=True))) for g in asked}
    log_weight = {}
    for g in held:
        if draw(st.booleans()):
            weight = values(batch, sizes[g])
            hide = torch.rand(weight.shape, generator=generator) < draw(st.sampled_from([0.0, 0.4, 1.0]))
            log_weight[g] = weight.masked_fill(hide, -torch.inf)
    return VisibilityTable(q, kv, sees, log_weight)
