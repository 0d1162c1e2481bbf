"""`CacheMonitor`: which cached frames a chunk attends to, and what that says of recovery (ReMind, arXiv 2605.25333)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.base import VIDEO, Table
from memkit.errors import InputError
from memkit.injectors.query_layers.monitor import context_shares


class CacheMonitor:
    """Collects the share of each frame's attention that falls on each cached frame, in [0, 1].

    It is the mean over the frame's tokens and heads of the softmax that the layer takes, over all that the chunk sees:
    the shares of a frame sum to 1 less what falls on the chunk itself and on other memory. Pass one to each chunk;
    each forward of a transformer in it adds one row. A forward that was cut short by an error leaves none.

        monitor = CacheMonitor()
        with cache.chunk([45, 46, 47], monitor=monitor):
            transformer(latents, t, text)
        recovery_attention(monitor.shares(), monitor.positions, monitor.read, event=9, peak=18.0).before.mean()

    The shares are exact and cost as much again as the attention.
    """

    def __init__(self) -> None:
        self._rows: list[CacheRow] = []

    def begin(self, layers: range, positions: Sequence[int], read: Sequence[int]) -> CacheRow:
        """A row for a forward over ``layers`` of a chunk at ``positions`` which reads ``read``.

        Raises:
            InputError: the monitor has seen another chunk, or another read.
        """
        row = CacheRow(len(layers), tuple(positions), tuple(read))
        if self._rows and (self.positions, self.read) != (row.positions, row.read):
            raise InputError("A monitor is for one chunk and one read; give each its own.")
        self._rows.append(row)
        return row

    @property
    def positions(self) -> tuple[int, ...]:
        """Of the chunk's frames; none before the first forward."""
        return self._rows[0].positions if self._rows else ()

    @property
    def read(self) -> tuple[int, ...]:
        """Positions of the cached frames; none before the first forward."""
        return self._rows[0].read if self._rows else ()

    def shares(self) -> Float[Tensor, "calls layers batch frames read"]:
        """One row a forward, fp32 on the CPU: from each frame of the chunk to each cached one. Empty before the first.

        Raises:
            InputError: the forwards differ in batch or in layers.
        """
        rows = [torch.stack(list(row.shares.values())) for row in self._rows if len(row.shares) == row.layers]
        if not rows:
            return torch.zeros(0, 0, 0, len(self.positions), len(self.read))
        shapes = sorted({tuple(row.shape[:2]) for row in rows})
        if len(shapes) > 1:
            raise InputError(f"The forwards gave shares of [layers, batch] {shapes}; use a monitor for each.")
        return torch.stack(rows)

    def even(self) -> Float[Tensor, "frames read"]:
        """What the shares would be if a chunk without other memory looked everywhere alike."""
        sees = len(self.positions) + len(self.read)
        return torch.full((len(self.positions), len(self.read)), 1 / sees if sees else 0.0)


class CacheRow:
    """The shares of one forward. A layer that gradient checkpointing runs again gives the same ones again."""

    def __init__(self, layers: int, positions: tuple[int, ...], read: tuple[int, ...]) -> None:
        self.layers = layers
        self.positions = positions
        self.read = read
        self.shares: dict[int, Tensor] = {}

    def record(self, layer: int, table: Table, video: str, cached: str) -> None:
        """Keep the shares [B, frames, read] of a layer: of the groups ``video`` and ``cached`` of its table."""
        shares = []
        for q in table.q[video].chunk(len(self.positions), dim=1):
            frame = Table({VIDEO: q}, table.kv, {VIDEO: table.sees[video]}, table.log_weight)
            shares.append(context_shares(frame, VIDEO, cached, len(self.read)))
        self.shares[layer] = torch.stack(shares, dim=1).cpu()


class RecoveryAttention(NamedTuple):
    """Shares of the attention of each frame after an event, in [0, 1]."""

    before: Float[Tensor, "*calls frames"]
    """On cached frames before the event."""
    mirror: Float[Tensor, "*calls frames"]
    """On those where the camera was as it is now, on the way there: peak + k looks at peak − k, ± ``reach``."""
    newest: Float[Tensor, "*calls frames"]
    """On the newest cached frames."""


def recovery_attention(
    shares: Float[Tensor, "*calls frames read"],
    positions: Sequence[int],
    read: Sequence[int],
    event: int,
    peak: float | int,
    newest: int = 3,
    reach: float | int = 1.0,
) -> RecoveryAttention:
    """Where a chunk looks after something interrupted the view.

    Args:
        shares: of a `CacheMonitor`, or its ``even()`` for what to compare them with.
        positions: of the chunk's frames; ``read``: of the cached ones.
        event: position of the first frame that the interruption touches.
        peak: position at which the camera turned back, between frames too (18.5).
        newest: how many of the newest cached frames count as such.
        reach: how far from its mirror a frame still counts.

    Raises `InputError` for shares of another number of frames.
    """
    if tuple(shares.shape[-2:]) != (len(positions), len(read)):
        raise InputError(f"Shares are {list(shares.shape)}; give [..., {len(positions)}, {len(read)}].")
    last = set(sorted(read)[len(read) - newest :] if newest < len(read) else read)

    def on(wanted: Callable[[int, int], bool]) -> Tensor:
        chosen = torch.tensor([[wanted(p, r) for r in read] for p in positions]).reshape(len(positions), len(read))
        return (shares * chosen.to(shares)).sum(-1)

    return RecoveryAttention(
        before=on(lambda p, r: r < event),
        mirror=on(lambda p, r: abs(r - (2 * peak - p)) <= reach),
        newest=on(lambda p, r: r in last),
    )
