"""`overlapping_velocity`: the velocity of a long video from windows that overlap (VINs, arXiv 2503.17539)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_whole
from memkit.generation.frame_sampler import FrameSampler


def overlapping_velocity(
    sampler: FrameSampler,
    x: Float[Tensor, "batch channels frames height width"],
    taken: Int[Tensor, " frames"],
    chunk: int,
    overlap: int,
    averaged: bool,
) -> Float[Tensor, "batch channels frames height width"]:
    """The prediction for each chunk of a video, in a call that begins ``overlap`` frames before the chunk.

    With ``averaged``, both predictions for those frames are mixed, with weights that go linearly from the earlier call
    to the later one; otherwise the earlier call's stands. A video of one chunk gets the model's own prediction.

    Raises `InputError` for a chunk below 1 or an overlap below 0, or longer than the chunk.
    """
    check_whole("chunk", chunk, 1, MOST_FRAMES)
    check_whole("overlap", overlap, 0, chunk)
    parts: list[Tensor] = []
    for start in range(0, x.shape[2], chunk):
        shared = min(overlap, start)
        span = slice(start - shared, start + chunk)
        new = sampler.velocity(x[:, :, span], taken[span])
        if shared and averaged:
            weight = (torch.arange(1, shared + 1, device=x.device) / (shared + 1))[:, None, None].to(new)
            kept, before = parts[-1].split([parts[-1].shape[2] - shared, shared], 2)
            parts[-1] = torch.cat([kept, torch.lerp(before, new[:, :, :shared], weight)], 2)
        parts.append(new[:, :, shared:])
    return torch.cat(parts, 2)
