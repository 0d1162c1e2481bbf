"""Scores by position alone: the newest frames, the first ones of a video (a sink), and the last few.

A sink and a rolling window are those of StreamingLLM (arXiv 2309.17453), as Self-Forcing (arXiv 2506.08009) and
LongLive (arXiv 2509.22622) have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_fields
from memkit.injectors.kv_cache.scores.base import Held, Score


@dataclass(frozen=True)
class Newest(Score):
    """The position: the lowest is evicted first. The default of a cache."""

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        return torch.tensor(positions, dtype=torch.float64)


@dataclass(frozen=True)
class Sink(Score):
    """∞ for positions below ``frames``, and 0 for others."""

    frames: int = 1

    def __post_init__(self) -> None:
        check_fields(self, frames=(0, MOST_FRAMES))

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        at = torch.tensor(positions, dtype=torch.float64)
        return torch.where(at < self.frames, torch.inf, 0.0)


@dataclass(frozen=True)
class Recent(Score):
    """∞ for the highest ``frames`` of the positions at hand, and 0 for others. In an eviction, these are the frames
    that are held, beside which the new ones are written."""

    frames: int = 3

    def __post_init__(self) -> None:
        check_fields(self, frames=(0, MOST_FRAMES))

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        newest = set(sorted(positions)[max(0, len(positions) - self.frames) :])
        return torch.tensor([torch.inf if p in newest else 0.0 for p in positions], dtype=torch.float64)
