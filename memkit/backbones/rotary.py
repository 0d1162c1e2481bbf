"""Wan's rotary position embedding (interleaved pairs, angles as (cos, sin) tables) for frames at any position."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from jaxtyping import Float
from torch import Tensor

from memkit.checks import MOST, shown
from memkit.errors import InputError

_SAME_FREQUENCIES = 1e-2  # a table in bf16 differs from the formula by up to 4e-3, one with another base by about 1


def rotate(
    x: Float[Tensor, "batch tokens heads dim"],
    cos: Float[Tensor, "#batch tokens #heads dim"],
    sin: Float[Tensor, "#batch tokens #heads dim"],
) -> Float[Tensor, "batch tokens heads dim"]:
    """Rotate each pair (x[2i], x[2i+1]) by its angle; bit-identical to diffusers' Wan processor."""
    x1, x2 = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x)
    out[..., 0::2] = x1 * cos - x2 * sin
    out[..., 1::2] = x1 * sin + x2 * cos
    return out.type_as(x)


def checked_positions(positions: Sequence[Any]) -> tuple[int, ...]:
    """``positions`` of latent frames as ints, in the same order.

    Raises:
        InputError: a position is not a whole number or is repeated, or there are none.
    """
    try:
        numbers = tuple(index(p) for p in positions)
    except TypeError as error:
        raise InputError(f"Positions are {shown(positions)}; give whole numbers of latent frames.") from error
    if numbers and not -MOST <= min(numbers) <= max(numbers) <= MOST:
        raise InputError(f"Positions are {shown(positions)}; give whole numbers from {-MOST:,} to {MOST:,}.")
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(
            f"Positions are {list(numbers)}; give each latent frame a position of its own, and at least one frame."
        )
    return numbers


def rotary_at(
    rope: Any, positions: Sequence[int], height: int, width: int
) -> tuple[Float[Tensor, "1 tokens 1 dim"], Float[Tensor, "1 tokens 1 dim"]]:
    """Wan's rotary tables for latent frames at any whole ``positions``: negative, with gaps, or beyond its table.

    Args:
        rope: the model's own, ``transformer.rope``, of Wan or a relative. Positions within its table get the table's
            values, so positions 0…n−1 give its own output, bit for bit; position −p has the values of p with the
            opposite sine.
        positions: one per latent frame (per patch in time), in the order of the frames.
        height: number of tokens (patches) of a frame vertically.
        width: number of tokens (patches) of a frame horizontally.

    Returns:
        (cos, sin), each [1,S,1,D] with S = frames · height · width.

    Raises:
        InputError: a position is not a whole number or is repeated; a frame exceeds the model's table; or a position is
            beyond the table and the model's frequencies are not Wan's.
    """
    positions = checked_positions(positions)
    size = rope.get_buffer("freqs_cos").shape[0]
    if max(height, width) > size:
        raise InputError(
            f"A frame of {height}×{width} tokens exceeds the model's table of {size} positions; give smaller frames."
        )
    shape = (len(positions), height, width, -1)
    temporal, spatial = _rows_of(rope, size, 1, 1), _rows_of(rope, 1, height, width)
    # In the spatial table, only the columns for height and width are used; those for time are at frame 0.
    frames = _frame_angles(*(table[:, : rope.t_dim] for table in temporal), positions)
    tables = []
    for in_time, in_space in zip(frames, spatial, strict=True):
        in_space = in_space[:, rope.t_dim :].view(1, height, width, -1).expand(shape)
        in_time = in_time[:, None, None].expand(shape)
        tables.append(torch.cat([in_time, in_space], dim=-1).reshape(1, -1, 1, rope.attention_head_dim))
    return tables[0], tables[1]


def _rows_of(rope: Any, frames: int, height: int, width: int) -> list[Tensor]:
    """The model's own (cos, sin) [tokens, dim] for a grid of tokens at frames 0, 1, ….

    Calls the module's ``forward``, which bypasses our own hook, and does not read its buffers: offloading puts those on
    their device only during the forward. The forward uses only the shape of the latents.
    """
    depth, down, across = rope.patch_size
    grid = torch.empty(1).expand(1, 1, frames * depth, height * down, width * across)
    return [table[0, :, 0] for table in rope.forward(grid)]


def _frame_angles(cos: Tensor, sin: Tensor, positions: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(cos, sin) [frames, dim] at any positions, from the tables [size, dim] for positions 0…size−1."""
    size = len(cos)
    beyond = [i for i, p in enumerate(positions) if abs(p) >= size]
    rows = torch.tensor([0 if abs(p) >= size else abs(p) for p in positions], device=cos.device)
    signs = torch.tensor([-1 if p < 0 else 1 for p in positions], device=cos.device, dtype=cos.dtype)
    cos_at, sin_at = cos[rows], sin[rows] * signs[:, None]
    if beyond:
        # Compute the table's last row too, to check that this model uses the same formula.
        computed: Any = torch.tensor([size - 1, *(positions[i] for i in beyond)], dtype=torch.float64)
        more = get_1d_rotary_pos_embed(
            cos.shape[1], computed, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64
        )
        for table, at, new in zip((cos, sin), (cos_at, sin_at), more, strict=True):
            if (new[0] - table[-1].cpu().float()).abs().max() > _SAME_FREQUENCIES:
                raise InputError(
                    f"This model's rotary frequencies are not Wan's (base 10000), so positions beyond its table of "
                    f"{size} cannot be computed; keep positions within ±{size - 1}."
                )
            at[beyond] = new[1:].to(table)
    return cos_at, sin_at
