"""`Chunk`: one chunk of a cached stream while it is run: what it reads, and what it will write at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from memkit.backbones.rotary import checked_positions
from memkit.errors import InputError, MemkitError
from memkit.injectors.kv_cache.monitor import CacheMonitor, CacheRow
from memkit.injectors.kv_cache.slots import SlotCache

if TYPE_CHECKING:
    from memkit.injectors.kv_cache.cache import KVCache


class Chunk:
    """One chunk while it is run: its positions, what it reads, and what it will write. Made by `KVCache.chunk`.

    ``read`` is fixed when it is made; ``evicted`` holds, after the exit of a writing chunk, the positions that made
    room.
    """

    def __init__(
        self,
        cache: KVCache,
        branch: SlotCache,
        positions: Sequence[int],
        read: Sequence[int] | None,
        write: bool,
        pin: bool,
        monitor: CacheMonitor | None,
    ) -> None:
        self.positions = checked_positions(positions)
        self.branch = branch
        self.write = write
        self.pin = pin
        self.monitor = monitor
        self.row: CacheRow | None = None
        self.evicted: tuple[int, ...] = ()
        self._cache = cache
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}
        if read is None:
            self.read = tuple(p for p in branch.positions if p not in self.positions)
        else:
            self.read = branch.require(read)
            if own := [p for p in self.read if p in self.positions]:
                raise InputError(f"The chunk would read {own}, which it makes itself; leave them out of read.")
        if write and branch.positions:
            branch.room(self.positions)

    def __enter__(self) -> Chunk:
        self._cache.open(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._cache.close(self)
        if self.write and kind is None:
            self.evicted = self.branch.update(self.positions, self._collected(), self.pin)
        self._pending.clear()

    def begin(self, layers: range) -> None:
        """A forward over ``layers`` starts: what an earlier one left is no longer what will be written."""
        for layer in layers:
            self._pending.pop(layer, None)
        if self.monitor is not None:
            self.row = self.monitor.begin(layers, self.positions, self.read)

    def collect(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the chunk's own keys and values; a block that runs twice gives the same ones again."""
        if self.write:
            self._pending[layer] = (k.detach(), v.detach())

    def _collected(self) -> list[tuple[Tensor, Tensor]]:
        for number, layers in enumerate(self._cache.layers):
            if not self._pending.keys() >= set(layers):
                raise MemkitError(
                    f"The writing chunk at {list(self.positions)} ended, but transformer {number} of "
                    f"{len(self._cache.layers)} did not run through in it; nothing was written. Run every attached "
                    "transformer in it."
                )
        return [self._pending[layer] for layer in sorted(self._pending)]
