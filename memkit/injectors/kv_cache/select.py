"""Selection per query: of the frames that a chunk reads, each layer attends to those that its queries fit best.

MemFlow's sparse memory activation: the queries of the chunk are averaged, and the frames whose mean key has the largest
inner product with that average are attended to. That it is per sample, over all heads together and after rotation, is
our reading. In contrast, `ReadBest` chooses frames once for all layers, before the queries are known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_fields
from memkit.errors import InputError


class Select(ABC):
    """Which of the frames that are read a layer attends to."""

    @abstractmethod
    def choose(
        self, q: Float[Tensor, "batch tokens heads dim"], means: Float[Tensor, "batch frames heads dim"]
    ) -> Int[Tensor, "batch chosen"]:
        """Numbers of frames, of one count for all samples, of the chunk's queries and each frame's mean key."""

    def apply(
        self, q: Tensor, k: Tensor, v: Tensor, log_weight: Tensor | None, tokens: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]:
        """What is left of the keys, values [B,K,H,D] and log-weights [B,K] of frames with these numbers of tokens;
        unchanged where that is all of them.

        Raises `InputError` where frames have different numbers of tokens.
        """
        if len(set(tokens)) > 1:
            raise InputError(
                "Selection per query needs frames of one number of tokens, and the places of the cache hold different "
                "ones; read frames of one place, or leave select out."
            )
        means = k.unflatten(1, (len(tokens), -1)).float().mean(2)
        chosen = self.choose(q.detach(), means.to(q.device)).sort(-1).values
        if (count := chosen.shape[1]) == len(tokens):
            return k, v, log_weight, tokens
        rows = torch.arange(len(chosen), device=k.device)[:, None]

        def of_chosen(x: Tensor) -> Tensor:
            return x.unflatten(1, (len(tokens), -1))[rows, chosen.to(k.device)].flatten(1, 2)

        weight = None if log_weight is None else of_chosen(log_weight)
        return of_chosen(k), of_chosen(v), weight, tokens[:count]


@dataclass(frozen=True)
class PooledQuery(Select):
    """MemFlow's selection: the ``frames`` whose mean key fits the mean query of the chunk best."""

    frames: int = 3

    def __post_init__(self) -> None:
        check_fields(self, frames=(1, MOST_FRAMES))

    def choose(
        self, q: Float[Tensor, "batch tokens heads dim"], means: Float[Tensor, "batch frames heads dim"]
    ) -> Int[Tensor, "batch chosen"]:
        fit = torch.einsum("bhd,bfhd->bf", q.float().mean(1), means)
        return fit.topk(min(self.frames, fit.shape[1]), dim=-1).indices
