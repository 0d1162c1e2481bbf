"""`Chunk`: one chunk of a cached stream while it runs: the frames that it reads and those that it will write."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from memkit.backbones.attached import Running
from memkit.backbones.rotary import checked_positions
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder, Row
from memkit.injectors.kv_cache.slots import SlotCache


class Chunk:
    """One chunk while it runs: its positions and the frames that it reads and writes; see `AttachedCache.chunk`.

    ``read`` holds the positions of the cached frames that are read, fixed at creation. After the exit of a writing
    chunk, ``evicted`` holds the positions of the frames that were evicted for it.
    """

    def __init__(
        self,
        running: Running[Chunk],
        layers: Sequence[range],
        branch: SlotCache,
        positions: Sequence[int],
        read: Sequence[int] | None,
        write: bool,
        pin: bool,
        recorder: AttentionRecorder | None,
    ) -> None:
        self.positions = checked_positions(positions)
        self.branch = branch
        self.write = write
        self.pin = pin
        self.recorder = recorder
        self.evicted: tuple[int, ...] = ()
        self._running, self._layers = running, layers
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}
        if read is None:
            self.read = tuple(p for p in branch.positions if p not in self.positions)
        else:
            self.read = branch.require(read)
            if overlap := [p for p in self.read if p in self.positions]:
                raise InputError(f"The chunk would read {overlap}, which it generates itself; leave them out of read.")
        if write and branch.positions:
            branch.plan_eviction(self.positions)

    def __enter__(self) -> Chunk:
        self._running.enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._running.leave()
        if self.write and kind is None:
            self.evicted = self.branch.update(self.positions, self._collected(), self.pin)
        self._pending.clear()

    def begin(self, layers: range) -> Row | None:
        """Begin a forward pass over ``layers``, which discards the keys and values that an earlier one collected.

        Returns the recorder's row for its shares of attention, or None without a recorder.
        """
        for layer in layers:
            self._pending.pop(layer, None)
        return None if self.recorder is None else self.recorder.begin(len(layers), self.positions, self.read)

    def collect(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the chunk's own keys and values of a layer; a recomputed block gives the same ones again."""
        if self.write:
            self._pending[layer] = (k.detach(), v.detach())

    def _collected(self) -> list[tuple[Tensor, Tensor]]:
        for number, layers in enumerate(self._layers):
            if not self._pending.keys() >= set(layers):
                raise MemkitError(
                    f"The writing chunk at {list(self.positions)} ended, but transformer {number} of "
                    f"{len(self._layers)} did not run to its end in it; nothing was written. Run every attached "
                    "transformer inside the chunk."
                )
        return [self._pending[layer] for layer in sorted(self._pending)]
