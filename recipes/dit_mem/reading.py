"""A second loss for the encoder: the tokens of a memory clip shall tell the gravity that governs it.

Flow matching asks the encoder for the law only through the frozen backbone, in losses that hardly move. Reading the law
from the tokens is a direct task with labels of the training clips alone, and far cheaper per step. The head is used in
training only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from memkit.memory import Memory
from memkit.worlds.law_clips import constants_of, law_of

_MIDDLE, _SPREAD = math.log(7.0), 0.65
"""Mean and standard deviation of the logarithm of the gravities of the training planets, in m/s²."""


def log_gravities(ids: Sequence[str]) -> Float[Tensor, " clips"]:
    """The standardised logarithm of the gravity of each clip of the laws world; NaN where it has none."""
    gravity = [constants_of(law_of(id)).get("gravity", math.nan) for id in ids]
    return (torch.tensor(gravity).log() - _MIDDLE) / _SPREAD


class GravityReader(nn.Module):
    """Reads the gravity of each clip from the mean of its tokens; a call returns the mean loss over clips."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))

    def forward(self, memory: Memory, mask: Bool[Tensor, "batch k"], truth: Float[Tensor, "batch k"]) -> Tensor:
        """``truth`` is that of `log_gravities`; clips that are masked, or without gravity, do not count."""
        clips = memory.tokens.unflatten(1, (mask.shape[1], -1)).mean(2)
        counts = mask & ~truth.isnan()
        off = smooth_l1_loss(self.head(clips)[..., 0], truth.nan_to_num(), reduction="none")
        return (off * counts).sum() / counts.sum().clamp(min=1)
