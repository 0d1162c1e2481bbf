"""Finds which of many discs (or balls) intersect a disc, by a grid over their centres."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CELLS_PER_RADIUS = 2
_MOST_CELLS = 2**20  # along one axis, so that three axes fit 63 bits


class DiscIndex:
    """Discs with ``centres`` [N, D] and ``radii`` [N], sorted by cell; a query visits only cells within its reach."""

    def __init__(self, centres: Float[Tensor, "n dims"], radii: Float[Tensor, " n"]) -> None:
        self._centres, self._radii = centres, radii
        if not len(radii):
            return
        self._widest, self._low = radii.max(), centres.amin(0)
        spread = (centres.amax(0) - self._low).max()
        self._cell = torch.maximum(self._widest / _CELLS_PER_RADIUS, spread / (_MOST_CELLS - 1))
        cells = self._cells(centres)
        self._counts = cells.amax(0) + 1
        self._sorted, self._order = self._keys(cells).sort()

    def meeting(self, centre: Float[Tensor, " dims"], radius: Float[Tensor, ""]) -> Int[Tensor, " hits"]:
        """Rows of the discs that intersect a disc, in ascending order. Touching discs intersect."""
        if not len(self._radii):
            return torch.empty(0, dtype=torch.int64, device=self._radii.device)
        reach = radius + self._widest
        first = self._cells(centre - reach).clamp(min=0)
        last = torch.minimum(self._cells(centre + reach), self._counts - 1)
        if bool((first > last).any()):
            return self._order[:0]
        *across, _ = (torch.arange(int(a), int(b) + 1).to(first) for a, b in zip(first, last, strict=True))
        lines = torch.cartesian_prod(*across).view(-1, len(across)) if across else first.new_zeros(1, 0)
        starts = self._keys(torch.cat([lines, first[-1].expand(len(lines), 1)], 1))
        begin = torch.searchsorted(self._sorted, starts)
        end = torch.searchsorted(self._sorted, starts + last[-1] - first[-1], right=True)
        found = [self._order[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True) if a < b]
        rows = torch.cat(found) if found else self._order[:0]
        apart = (self._centres[rows] - centre).norm(dim=1)
        return rows[apart <= (self._radii[rows] + radius) * (1 + 1e-9)].sort().values

    def _cells(self, centres: Tensor) -> Tensor:
        return ((centres - self._low) / self._cell).clamp(-1, _MOST_CELLS).floor().long()

    def _keys(self, cells: Tensor) -> Tensor:
        """One number per cell; neighbours along the last axis have consecutive numbers."""
        key = cells[:, 0]
        for axis in range(1, cells.shape[1]):
            key = key * self._counts[axis] + cells[:, axis]
        return key
