"""Rotary positions as in Wan: pairs interleaved, angles given as (cos, sin) tables, for frames at any position."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError

_SAME_FREQUENCIES = 1e-2  # a table cast to bf16 differs from its formula by up to 4e-3, one of another base by about 1


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


def checked_positions(positions: Sequence[Any]) -> tuple[int, ...]:
    """``positions`` of latent frames as ints, in their order.

    Raises:
        InputError: one is not a whole number, or comes twice, or there is none.
    """
    try:
        found = tuple(index(p) for p in positions)
    except TypeError as error:
        raise InputError(f"Positions are whole numbers of latent frames, not {list(positions)}.") from error
    if not found or len(set(found)) != len(found):
        raise InputError(f"Give each latent frame a position of its own, and at least one frame; not {list(found)}.")
    return found


def rotary_at(
    rope: WanRotaryPosEmbed, positions: Sequence[int], height: int, width: int
) -> tuple[Float[Tensor, "1 tokens 1 dim"], Float[Tensor, "1 tokens 1 dim"]]:
    """Wan's (cos, sin) for latent frames at any whole ``positions``: negative, with gaps, beyond the model's table.

    Args:
        rope: the model's own, ``transformer.rope``. Within its table the values are those of the table, so positions
            0…n−1 give its own output to the bit; those of −p are those of p with the sine's sign turned.
        positions: one for each latent frame (each patch in time), in the order of the frames.
        height: tokens (patches) of a frame downwards; ``width``: across.

    Raises:
        InputError: a position is not a whole number or comes twice; the model's frequencies are not Wan's.
    """
    positions = checked_positions(positions)
    size = rope.get_buffer("freqs_cos").shape[0]
    if max(height, width) > size:
        raise InputError(f"A frame of {height}×{width} tokens exceeds the model's table of {size} positions.")
    shape = (len(positions), height, width, -1)
    times, places = _rows_of(rope, size, 1, 1), _rows_of(rope, 1, height, width)
    # of the place's table, the columns of time stand at frame 0; those of rows and columns are as they should be
    frames = _frame_angles(*(table[:, : rope.t_dim] for table in times), positions)
    tables = []
    for angles, place in zip(frames, places, strict=True):
        place = place[:, rope.t_dim :].view(1, height, width, -1).expand(shape)
        both = [angles[:, None, None].expand(shape), place]
        tables.append(torch.cat(both, dim=-1).reshape(1, -1, 1, rope.attention_head_dim))
    return tables[0], tables[1]


def _rows_of(rope: WanRotaryPosEmbed, frames: int, height: int, width: int) -> list[Tensor]:
    """The model's own (cos, sin) [tokens, dim] for a grid of tokens at frames 0, 1, ….

    By the module's forward, past our own hook of it, and not from its buffers: offloading brings those for the forward
    alone. It looks at the shape of the latents only.
    """
    depth, down, across = rope.patch_size
    grid = torch.empty(1).expand(1, 1, frames * depth, height * down, width * across)
    return [table[0, :, 0] for table in rope.forward(grid)]


def _frame_angles(cos: Tensor, sin: Tensor, positions: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(cos, sin) [frames, dim] of any positions, from the tables [size, dim] of positions 0…size−1."""
    size = len(cos)
    far = [i for i, p in enumerate(positions) if abs(p) >= size]
    rows = torch.tensor([0 if abs(p) >= size else abs(p) for p in positions], device=cos.device)
    signs = torch.tensor([-1 if p < 0 else 1 for p in positions], device=cos.device, dtype=cos.dtype)
    cos_at, sin_at = cos[rows], sin[rows] * signs[:, None]
    if far:
        # The table's last row too: it shows whether the formula is this model's.
        there: Any = torch.tensor([size - 1, *(positions[i] for i in far)], dtype=torch.float64)
        more = get_1d_rotary_pos_embed(
            cos.shape[1], there, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64
        )
        for table, at, new in zip((cos, sin), (cos_at, sin_at), more, strict=True):
            if (new[0] - table[-1].cpu().float()).abs().max() > _SAME_FREQUENCIES:
                raise InputError(
                    f"This model's rotary frequencies are not Wan's (base 10000), so positions beyond its table of "
                    f"{size} are unknown; keep them within ±{size - 1}."
                )
            at[far] = new[1:].to(table)
    return cos_at, sin_at
