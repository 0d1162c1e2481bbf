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
from memkit.checks import check_number, check_whole, shown
from memkit.errors import InputError
from memkit.memory import Memory
from memkit.testing.measures import normal

Sizes = SearchStrategy[tuple[int, int, int]]
"""Draws time, height and width."""

SEEDS = st.integers(0, 2**31)
GROUPS = ("a", "b", "c")
MOST = 10_000
"""The largest size that is drawn along one axis."""


def grids(time: int = 6, height: int = 9, width: int = 9) -> Sizes:
    """Sizes of latents from 1 up to these: time, height, width in latent cells.

    Raises `InputError`, as all of these strategies do at the call, for sizes below 1.
    """
    _check_sizes(time=time, height=height, width=width)
    return st.tuples(st.integers(1, time), st.integers(1, height), st.integers(1, width))


def latents(
    channels: int = 16, sizes: Sizes | None = None, batch: int = 2, dtype: torch.dtype = torch.float32
) -> SearchStrategy[Tensor]:
    """Latents [B, channels, T, H, W] with up to ``batch`` samples; ``sizes`` draws T, H and W."""
    _check_sizes(channels=channels, batch=batch)
    _check_drawn(sizes, dtype)
    return _latents(channels, sizes, batch, dtype)


@st.composite
def _latents(draw: Any, channels: int, sizes: Sizes | None, batch: int, dtype: torch.dtype) -> Tensor:
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


def clips(
    channels: int = 16,
    sizes: Sizes | None = None,
    batch: int = 2,
    count: int = 3,
    dtype: torch.dtype = torch.float32,
) -> SearchStrategy[Clips]:
    """Latents [B, N, channels, T, H, W] of up to ``count`` clips for up to ``batch`` samples, and a mask."""
    _check_sizes(channels=channels, batch=batch, count=count)
    _check_drawn(sizes, dtype)
    return _clips(channels, sizes, batch, count, dtype)


@st.composite
def _clips(draw: Any, channels: int, sizes: Sizes | None, batch: int, count: int, dtype: torch.dtype) -> Clips:
    rows, number = draw(st.integers(1, batch)), draw(st.integers(1, count))
    size = draw(grids() if sizes is None else sizes)
    real = st.lists(st.booleans(), min_size=number, max_size=number).filter(any)
    mask = torch.tensor([draw(real) for _ in range(rows)])
    return Clips(normal(draw(SEEDS), rows, number, channels, *size, dtype=dtype), mask)


def memories(dim: int, batch: int = 2, tokens: int = 7, gate: tuple[int, int] | None = None) -> SearchStrategy[Memory]:
    """Memories of width ``dim``: up to ``tokens`` tokens for each of ``batch`` samples, with or without a mask, with or
    without log-weights, and with a gate in (-1, 1) where ``gate`` gives its layers and heads."""
    _check_sizes(dim=dim, batch=batch, tokens=tokens)
    if gate is not None:
        if not isinstance(gate, tuple | list) or len(gate) != 2:
            raise InputError(f"gate is {shown(gate)}; give its layers and heads.")
        _check_sizes(layers=gate[0], heads=gate[1])
    return _memories(dim, batch, tokens, gate)


@st.composite
def _memories(draw: Any, dim: int, batch: int, tokens: int, gate: tuple[int, int] | None) -> Memory:
    count, seed = draw(st.integers(1, tokens)), draw(SEEDS)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, count, dim, generator=generator)
    mask = torch.rand(batch, count, generator=generator) < 0.6 if draw(st.booleans()) else None
    weight = torch.randn(batch, count, generator=generator) if draw(st.booleans()) else None
    opened = None if gate is None else torch.randn(*gate, generator=generator).tanh()
    return Memory(values, mask, weight, opened)


def cameras(frames: int = 5, batch: int | None = None, metres: float = 8.0) -> SearchStrategy[Cameras]:
    """Cameras [frames], or [batch, frames]: any rotation, a position within ±``metres``, fx and fy from 0.4 to 1.5."""
    _check_sizes(frames=frames, batch=1 if batch is None else batch)
    check_number("metres", metres)
    return _cameras(frames, batch, metres)


@st.composite
def _cameras(draw: Any, frames: int, batch: int | None, metres: float) -> Cameras:
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


def tables(dtypes: Sequence[torch.dtype] = (torch.float32,), length: int = 5) -> SearchStrategy[VisibilityTable]:
    """Up to three groups of up to ``length`` queries and keys, with any visibility and some log-weights, −inf too."""
    check_whole("length", length, 0, MOST)
    if not isinstance(dtypes, Sequence) or not dtypes:
        raise InputError(f"dtypes is {shown(dtypes)}; give at least one.")
    for dtype in dtypes:
        _check_drawn(None, dtype)
    return _tables(dtypes, length)


@st.composite
def _tables(draw: Any, dtypes: Sequence[torch.dtype], length: int) -> VisibilityTable:
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


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        check_whole(name, size, 1, MOST)


def _check_drawn(sizes: object, dtype: object) -> None:
    if sizes is not None and not isinstance(sizes, SearchStrategy):
        raise InputError(f"sizes is {shown(sizes)}; give a strategy of time, height and width, such as grids().")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype is {shown(dtype)}; give a floating-point one.")
