"""How much attention falls on memory, by call and layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


class AttentionMonitor:
    """Collects the mean share of attention on memory, in [0, 1], over all queries, heads and samples.

    A gated memory has a softmax of its own; there it is memory's share of the output, |gate·y_memory| of
    |y| + |gate·y_memory|.

    Pass it to an injector; each forward of the transformer adds one row. With classifier-free guidance, Wan makes two
    forwards a step: the conditional one first.
    """

    def __init__(self) -> None:
        self._rows: list[dict[int, Tensor]] = []

    def recorder(self, layer: int) -> Callable[[Tensor], None]:
        """What a layer calls with its shares [B,S,H]."""

        def record(share: Tensor) -> None:
            if not self._rows or layer in self._rows[-1]:
                self._rows.append({})
            self._rows[-1][layer] = share.float().mean((1, 2)).cpu()

        return record

    def shares(self) -> Float[Tensor, "calls layers"]:
        """One row a forward of the transformer, one column a layer; empty before the first."""
        if not self._rows:
            return torch.zeros(0, 0)
        return torch.tensor([[row[layer].mean().item() for layer in sorted(row)] for row in self._rows])

    def by_sample(self) -> Float[Tensor, "calls layers batch"]:
        """`shares` of each sample, for forwards of one batch."""
        if not self._rows:
            return torch.zeros(0, 0, 0)
        return torch.stack([torch.stack([row[layer] for layer in sorted(row)]) for row in self._rows])
