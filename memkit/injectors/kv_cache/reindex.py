"""Rotary positions at which a chunk and what it reads are placed, for caches that hold keys before rotation.

With keys before rotation, a position can be chosen anew at each reading: a model that was trained on 21 frames then
never sees a larger distance. Each rule is a small class with one method. The rules are those of Infinity-RoPE
(arXiv 2511.20649), MemRoPE, Rolling Forcing (arXiv 2509.25161) and LongLive-RAG.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memkit.checks import MOST_FRAMES, check_fields


class Placed(NamedTuple):
    """Rotary positions in time; several frames may have the same."""

    read: tuple[int, ...]
    """Of the cached frames, in the order in which they are read."""
    summary: tuple[int, ...]
    """Of the summary frames."""
    chunk: tuple[int, ...]
    """Of the chunk's own frames."""


class Reindex(ABC):
    """A rule for rotary positions. Subclasses are frozen dataclasses."""

    @abstractmethod
    def place(self, read: Sequence[int], summaries: int, chunk: Sequence[int]) -> Placed:
        """Positions for the cached frames ``read`` and the ``chunk``, of which these are the true positions, and for
        so many summary frames."""


@dataclass(frozen=True)
class TruePositions(Reindex):
    """Every frame at its own position, as in a cache of rotated keys; summary frames at the chunk's first."""

    def place(self, read: Sequence[int], summaries: int, chunk: Sequence[int]) -> Placed:
        return Placed(tuple(read), (min(chunk),) * summaries, tuple(chunk))


@dataclass(frozen=True)
class Consecutive(Reindex):
    """Positions 0, 1, 2, … in the order of time: the ``sink`` first frames read, summary frames, other frames read, and
    the chunk (Infinity-RoPE without summaries, MemRoPE with them)."""

    sink: int = 0

    def __post_init__(self) -> None:
        check_fields(self, sink=(0, MOST_FRAMES))

    def place(self, read: Sequence[int], summaries: int, chunk: Sequence[int]) -> Placed:
        order = {p: i for i, p in enumerate(sorted(read))}
        shift = {p: i + summaries * (i >= self.sink) for p, i in order.items()}
        after = min(self.sink, len(read))
        start, first = len(read) + summaries, sorted(chunk)
        return Placed(
            tuple(shift[p] for p in read),
            tuple(range(after, after + summaries)),
            tuple(start + first.index(p) for p in chunk),
        )


@dataclass(frozen=True)
class SinkBeforeWindow(Reindex):
    """The first ``sink`` frames read are placed right before the others, which keep their positions, as does the chunk
    (Rolling Forcing; Deep Forcing, arXiv 2512.05081). Summary frames are at the chunk's first position."""

    sink: int = 3

    def __post_init__(self) -> None:
        check_fields(self, sink=(0, MOST_FRAMES))

    def place(self, read: Sequence[int], summaries: int, chunk: Sequence[int]) -> Placed:
        order = sorted(read)
        first, rest = order[: self.sink], order[self.sink :]
        start = min(min(chunk), *rest) if rest else min(chunk)
        moved = {p: start - len(first) + i for i, p in enumerate(first)} | {p: p for p in rest}
        return Placed(tuple(moved[p] for p in read), (min(chunk),) * summaries, tuple(chunk))


@dataclass(frozen=True)
class RetrievedAtZero(Reindex):
    """The newest ``local`` frames read and the chunk at consecutive positions from ``sink`` on, the ``sink`` first
    frames before them, and all other frames, which were retrieved, at position 0 (LongLive-RAG).

    That sink and window are consecutive is our reading. Summary frames are at 0, too.
    """

    sink: int = 1
    local: int = 3

    def __post_init__(self) -> None:
        check_fields(self, sink=(0, MOST_FRAMES), local=(0, MOST_FRAMES))

    def place(self, read: Sequence[int], summaries: int, chunk: Sequence[int]) -> Placed:
        order = sorted(read)
        first = order[: self.sink]
        newest = order[max(len(first), len(order) - self.local) :]
        at = {p: i for i, p in enumerate([*first, *newest, *sorted(chunk)])}
        return Placed(tuple(at.get(p, 0) for p in read), (0,) * summaries, tuple(at[p] for p in chunk))
