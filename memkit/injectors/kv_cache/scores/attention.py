"""`AttentionReceived`: the attention that a frame has received (H2O, arXiv 2306.14048; Deep Forcing, arXiv 2512.05081).

The cache notes, when a chunk is written, the share of the chunk's attention on each frame that it reads, as an
`AttentionRecorder` would: it costs as much as attention itself, once per chunk. H2O adds up all attention ever
received; that shares are means over layers, heads, samples and tokens, and that older ones fade, is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import check_fields
from memkit.errors import InputError
from memkit.injectors.kv_cache.scores.base import Held, Need, Score

ATTENTION = "attention"
"""Name of the note: for each frame, the share that each of the chunks written since then gave to it."""

KEPT = 256
"""Number of the newest chunks of which shares are noted."""


@dataclass(frozen=True)
class AttentionReceived(Score):
    """The sum of the shares of attention received, each ``decay`` times less for each chunk since.

    A frame that no chunk has read yet has received none.
    """

    needs = frozenset[Need](["attention"])
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_fields(self, decay=(0, 1))

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        noted = held.noted(ATTENTION, positions)
        if positions and all(x is None for x in noted):
            raise InputError(
                f"No attention to the cached frames {list(positions)} was noted, so AttentionReceived cannot tell them "
                "apart; write them in chunks of an attached cache, which reads them."
            )
        return torch.tensor([0.0 if x is None else self._sum(x) for x in noted], dtype=torch.float64)

    def _sum(self, shares: Tensor) -> float:
        fades = self.decay ** torch.arange(len(shares) - 1, -1, -1, dtype=torch.float64)
        return float((shares.double() * fades).sum())
