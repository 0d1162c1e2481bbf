"""`padded_latents`: the latents of lists of clips of any lengths, as an encoder takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.banks.bank import MemoryBank
from memkit.checks import check_room, check_whole
from memkit.errors import InputError


def padded_latents(
    bank: MemoryBank, ids: Sequence[Sequence[str]], count: int
) -> tuple[Float[Tensor, "batch clips channels time height width"], Bool[Tensor, "batch clips"]]:
    """Latents [B, count, C, T, H, W] of a list of clip ids per sample, and a mask, True for clips.

    Where a list has fewer than ``count`` ids, the latents are zero and the mask is False. At least one list has a clip.

    Raises `InputError` for a list of more than ``count`` ids, and what `MemoryBank.latents` raises.
    """
    check_whole("count", count, 1)
    if longest := max((len(row) for row in ids if len(row) > count), default=0):
        raise InputError(f"A list has {longest} clips, more than count, {count}; leave some out, or raise count.")
    shape = bank.latents([id for row in ids for id in row][:1]).shape[2:]
    check_room(f"{count:,} clips for each of {len(ids):,} samples", 4 * len(ids) * count * math.prod(shape))
    latents = torch.zeros(len(ids), count, *shape)
    for i, row in enumerate(ids):
        if row:
            latents[i, : len(row)] = bank.latents(list(row))[0]
    return latents, torch.tensor([[j < len(row) for j in range(count)] for row in ids])
