"""Scores by the cached keys: their norm, and how little they are like the others.

Both are of kvpress, per token there: KnormPress (arXiv 2406.11430) keeps keys of low norm, KeyDiffPress
(arXiv 2504.15364) those that differ most from the mean key. Here a frame has the mean over its tokens, heads, samples
and the ``layers`` that are looked at, which is our reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from memkit.errors import InputError
from memkit.injectors.kv_cache.scores.base import Held, Score


@dataclass(frozen=True)
class KeyNorm(Score):
    """The negative mean norm of a frame's keys: frames of large keys are evicted first."""

    layers: tuple[int, ...] | None = None

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        rows = [k.norm(dim=-1).mean((0, 2, 3)) for k in keys_of(held, positions, self.layers)]
        return -torch.stack(rows).mean(0).cpu()


@dataclass(frozen=True)
class KeyDifference(Score):
    """The negative mean cosine of a frame's keys to the mean key of all frames at hand: repeats are evicted first."""

    layers: tuple[int, ...] | None = None

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        rows = []
        for k in keys_of(held, positions, self.layers):
            mean = functional.normalize(k, dim=-1).mean((1, 2), keepdim=True)
            rows.append(functional.cosine_similarity(k, mean, dim=-1).mean((0, 2, 3)))
        return -torch.stack(rows).mean(0).cpu()


def keys_of(held: Held, positions: Sequence[int], layers: tuple[int, ...] | None) -> Iterator[Tensor]:
    """Keys [B, frames, tokens, H, D] in fp32 of each of these layers, by default all.

    Raises `InputError` where places hold different numbers of tokens per frame, or there is no such layer.
    """
    for layer in range(held.layers) if layers is None else layers:
        frames = [held.get(layer, [p])[0].float() for p in positions]
        if len({x.shape[1] for x in frames}) > 1:
            raise InputError("Frames with different numbers of tokens have no common score by their keys.")
        yield torch.stack(frames, dim=1)
