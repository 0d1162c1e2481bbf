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

from memkit.checks import check_fields
from memkit.injectors.kv_cache.scores.base import Held, Score


@dataclass(frozen=True)
class KeyNorm(Score):
    """The negative mean norm of a frame's keys: frames of large keys are evicted first."""

    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        rows = [[k.norm(dim=-1).mean() for k in frames] for frames in keys_of(held, positions, self.layers)]
        return -mean_over_layers(rows)


@dataclass(frozen=True)
class KeyDifference(Score):
    """The negative mean cosine of a frame's keys to the mean key of all frames at hand: repeats are evicted first."""

    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        rows = []
        for frames in keys_of(held, positions, self.layers):
            mean = torch.stack([functional.normalize(k, dim=-1).mean(1, keepdim=True) for k in frames]).mean(0)
            rows.append([functional.cosine_similarity(k, mean, dim=-1).mean() for k in frames])
        return -mean_over_layers(rows)


def keys_of(held: Held, positions: Sequence[int], layers: Sequence[int] | None) -> Iterator[list[Tensor]]:
    """Of each of these layers, by default all, the keys [B, tokens, H, D] of each frame, in fp32.

    Raises `InputError` where there is no such layer.
    """
    for layer in range(held.layers) if layers is None else layers:
        yield [held.get(layer, [p])[0].float() for p in positions]


def mean_over_layers(rows: Sequence[Sequence[Tensor]]) -> Float[Tensor, " frames"]:
    """Means, on the CPU, of numbers per layer and frame."""
    return torch.stack([torch.stack(list(row)) for row in rows]).mean(0).cpu() if rows and rows[0] else torch.zeros(0)
