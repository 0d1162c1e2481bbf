"""`FutureAttention`: the attention that a frame can expect of later queries (TriAttention, arXiv 2604.04921).

Of a key k before rotation, from the mean query q̄ and the mean absolute value E|q| of each pair of channels, whose
angular frequency over time is ω, and the distance Δ of a query that is δ frames after now:

    mean over δ = 1, 2, 4, …, 128 of  Σ |q̄||k| cos(ωΔ + arg(q̄k*))  +  Σ (E|q| − |q̄|) |k|

In bands of space, ω is 0. These are brought to mean 0 and standard deviation 1 over all tokens, in each head of each
layer, and averaged over layers. TriAttention keeps tokens, for each head; that a frame has the mean over its tokens,
heads and samples, and that now is the last frame of the chunk, is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError
from memkit.injectors.kv_cache.query_statistics import QueryStatistics, pairs
from memkit.injectors.kv_cache.scores.base import Held, Score
from memkit.injectors.kv_cache.scores.keys import keys_of, mean_over_layers

AHEAD = tuple(2**i for i in range(8))
_TINY = 1e-12


class FutureAttention(Score):
    """The expected logits of a frame's keys, by ``statistics`` of the model; for ``CacheParts(rotated=False)``.

    ``layers`` are those that are looked at, by default all.

    Raises:
        InputError: when it is asked for scores of rotated keys, or of another model.
    """

    def __init__(self, statistics: QueryStatistics, layers: tuple[int, ...] | None = None) -> None:
        self.statistics, self.layers = statistics, layers

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        if held.rotated:
            raise InputError("FutureAttention needs keys before rotation; give CacheParts(rotated=False).")
        if not positions:
            return torch.zeros(0)
        mean, size = self.statistics.mean, self.statistics.size
        layers, rows = range(held.layers) if self.layers is None else self.layers, []
        for layer, frames in zip(layers, keys_of(held, positions, layers), strict=True):
            k = torch.stack([pairs(each) for each in frames], 1)  # [B, frames, tokens, H, pairs]
            if len(mean) != held.layers or tuple(mean.shape[1:]) != tuple(k.shape[3:]):
                raise InputError(
                    f"The statistics are of {len(mean)} layers with {list(mean.shape[1:])} heads and pairs, the cache "
                    f"has {held.layers} with {list(k.shape[3:])}; collect them from its model."
                )
            gaps = max(chunk) - torch.tensor(positions, device=k.device)
            expected = expected_logits(k, mean[layer], size[layer], self.statistics.omega, gaps)
            spread = expected.std((1, 2), correction=0, keepdim=True).clamp(min=_TINY)
            rows.append(list(((expected - expected.mean((1, 2), keepdim=True)) / spread).mean((0, 2, 3))))
        return mean_over_layers(rows)


def expected_logits(k: Tensor, mean: Tensor, size: Tensor, omega: Tensor, gaps: Tensor) -> Float[Tensor, "b f t h"]:
    """The formula at the top, of complex keys [B,F,T,H,P], for a model's mean query and size [H,P], ω [P] and the
    distances [F] of the frames from now; logits are not divided by √D."""
    mean, size, omega = (x.to(k.device) for x in (mean, size, omega))
    ahead = torch.tensor(AHEAD, device=k.device)
    turns = torch.polar(torch.ones(()), (gaps[:, None] + ahead)[..., None] * omega).mean(1)  # [F, P]
    logits = (mean * k.conj() * turns[:, None, None]).real.sum(-1)
    return logits + ((size - mean.abs()) * k.abs()).sum(-1)
