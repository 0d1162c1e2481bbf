"""The order in which frames are evicted, or move on to the next place: by score, then by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from memkit.injectors.kv_cache.scores.ages import Newest
from memkit.injectors.kv_cache.scores.base import Held, Score
from memkit.injectors.kv_cache.table import Order


@runtime_checkable
class _Branch(Held, Protocol):
    @property
    def positions(self) -> tuple[int, ...]: ...


def eviction_order(keep: Score, held: _Branch, chunk: Sequence[int]) -> Order:
    """Sorts positions of frames of a branch, those with the lowest score first; ``chunk`` is about to be written.

    Frames that are not written in all layers, which have no score, are the last.
    """

    def order(positions: Sequence[int]) -> list[int]:
        there = set(held.positions)
        whole = [p for p in positions if p in there]
        scores = dict(zip(whole, keep.checked(held, whole, chunk), strict=True)) if whole else {}
        return sorted(positions, key=lambda p: (p not in scores, scores.get(p, 0.0), p))

    return sorted if isinstance(keep, Newest) else order
