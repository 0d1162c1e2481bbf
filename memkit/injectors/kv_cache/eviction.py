"""The order in which frames are evicted, or move on to the next place: by score, then by position."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

from memkit.injectors.kv_cache.scores.ages import Newest
from memkit.injectors.kv_cache.scores.base import Held, Score


@runtime_checkable
class _Branch(Held, Protocol):
    @property
    def positions(self) -> tuple[int, ...]: ...


class EvictionOrder:
    """Sorts positions of frames of a branch, those with the lowest score first, when ``chunk`` is about to be written.

    Scores are of all frames that are held, but those that the chunk replaces, and are asked for once, when they are
    needed first. Frames without a score, as they are not written in all layers, are the last.
    """

    def __init__(self, keep: Score, held: _Branch, chunk: Sequence[int]) -> None:
        self._keep, self._held, self._chunk = keep, held, chunk

    def __call__(self, positions: Sequence[int]) -> list[int]:
        if isinstance(self._keep, Newest):
            return sorted(positions)
        return sorted(positions, key=lambda p: (p not in self.scores, self.scores.get(p, 0.0), p))

    @cached_property
    def scores(self) -> dict[int, float]:
        """The score of each frame."""
        whole = [p for p in self._held.positions if p not in self._chunk]
        return dict(zip(whole, self._keep.checked(self._held, whole, self._chunk), strict=True))
