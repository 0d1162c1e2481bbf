"""`EMASummary`: what becomes of evicted frames: moving averages of their keys and values (MemRoPE).

When frames are evicted, with m the mean of their keys before rotation, each summary frame becomes
E ← αm + (1 − α)E, and the first m where there was none; values alike. MemRoPE has a long and a short memory, α = 0.01
and 0.1. By default its m is one mean over all evicted tokens, and fills a frame with equal tokens, which the rotation
in space tells apart; or one mean per position of a frame. That averages are kept in fp32, beside the budget of the
cache, is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memkit.checks import check_fields
from memkit.errors import InputError

Averages = tuple[Tensor, Tensor]
"""Keys and values of the summary frames of one layer: [B, frames, tokens or 1, H, D], fp32."""


@dataclass(frozen=True)
class EMASummary:
    """One summary frame per rate.

    Attributes:
        rates: α of each summary frame, in (0, 1]; those of MemRoPE are (0.01, 0.1).
        per_position: one mean per position of a frame, instead of one over all tokens.
    """

    rates: tuple[float, ...]
    per_position: bool = False

    def __post_init__(self) -> None:
        check_fields(self, rates=(0, 1))
        if not self.rates or not all(rate > 0 for rate in self.rates):
            raise InputError(f"EMASummary.rates = {self.rates}; give at least one rate, all above 0.")

    @torch.no_grad()
    def absorb(self, averages: Averages | None, evicted: Sequence[Tensor]) -> Averages:
        """The averages after the frames ``evicted``: keys and values [B, frames, tokens, H, D] of one layer."""
        means = []
        for x in evicted:
            mean = x.float().mean(1 if self.per_position else (1, 2), keepdim=True)
            means.append(mean.repeat_interleave(len(self.rates), 1))
        if averages is None:
            return means[0], means[1]
        k, v = (torch.lerp(old, new, self.rate(new)) for old, new in zip(averages, means, strict=True))
        return k, v

    def absorb_layers(self, averages: Sequence[Averages] | None, evicted: Sequence[Sequence[Tensor]]) -> list[Averages]:
        """The same for all layers."""
        before = [None] * len(evicted) if averages is None else averages
        return [self.absorb(old, new) for old, new in zip(before, evicted, strict=True)]

    def rate(self, like: Tensor) -> Tensor:
        """The rates, to be multiplied with averages."""
        return torch.tensor(self.rates, device=like.device).view(1, -1, 1, 1, 1)
