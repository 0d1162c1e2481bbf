"""`Chunk`: one chunk of a cached stream while it runs: the frames that it reads and those that it will write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from memkit.backbones.rotary import checked_positions
from memkit.backbones.running import Running
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder, Row
from memkit.injectors.kv_cache.reindex import Placed
from memkit.injectors.kv_cache.scores.attention import ATTENTION, KEPT
from memkit.injectors.kv_cache.slots import SlotCache


class ChunkPass:
    """What a chunk reads and writes in one branch; ``positions`` are those of the chunk.

    ``read`` holds the positions of the cached frames that are read, fixed at creation.
    """

    def __init__(
        self, branch: SlotCache, positions: tuple[int, ...], read: Sequence[int] | None, write: bool, name: str
    ) -> None:
        self.branch, self.positions, self.write, self.name = branch, positions, write, name
        self.frame_size: tuple[int, int] | None = None
        self.recorded = False
        self.attention: dict[int, Tensor] = {}
        """Of each layer, the share of the chunk's attention on each frame that it reads, where a score needs it."""
        self._pending: dict[int, tuple[Tensor, Tensor]] = {}
        self._contexts: tuple[str | None, str | None] = (None, None)
        """The cache_context of the first named pass, and of the last."""
        if read is None:
            self.read = tuple(p for p in branch.positions if p not in positions)
        else:
            self.read = branch.require(read)
            if overlap := [p for p in self.read if p in positions]:
                raise InputError(f"The chunk would read {overlap}, which it generates itself; leave them out of read.")
        self.notes_attention = write and "attention" in branch.needs and bool(self.read)
        if write and branch.positions:
            branch.check_room(positions)

    def place(self) -> Placed:
        """The rotary positions of what is read, of summary frames and of the chunk."""
        parts = self.branch.parts
        if parts.rotated:
            return Placed((), (), self.positions)
        summaries = 0 if parts.summary is None or self.branch.averages is None else len(parts.summary.rates)
        return parts.reindex.place(self.read, summaries, self.positions)

    def begin(self, layers: range, context: str | None, frame_size: tuple[int, int]) -> None:
        """Begin a forward pass over ``layers``, which discards the keys and values that an earlier one collected.

        Raises:
            InputError: a frame has other rows and columns of tokens than the cached ones.
        """
        if self.read or self.write:
            self.branch.check_frame_size(frame_size)
        if self.read:
            self.branch.notes.was_read()
        self.frame_size = frame_size
        self._contexts = (self._contexts[0] or context, context)
        for layer in layers:
            self._pending.pop(layer, None)

    def collect(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the chunk's own keys and values of a layer; a recomputed block gives the same ones again."""
        if self.write:
            self._pending[layer] = (k.detach(), v.detach())

    def collected(self, layers: Sequence[range]) -> list[tuple[Tensor, Tensor]]:
        """The keys and values of all layers, of the last forward pass.

        Raises:
            MemkitError: a transformer did not run to its end.
            InputError: the last pass was another one of the pipeline than the first, as "uncond" after "cond".
        """
        first, last = self._contexts
        if last not in (None, first):
            raise InputError(
                f"The writing chunk at {list(self.positions)} has the one branch {self.name!r}, and the transformer "
                f"was called in the cache contexts {first!r} and, last, {last!r}; nothing was written. Create the "
                'cache with a branch for each, such as branches=("cond", "uncond"), and open the chunk for both.'
            )
        for number, span in enumerate(layers):
            if not self._pending.keys() >= set(span):
                raise MemkitError(
                    f"The writing chunk at {list(self.positions)} ended, but transformer {number} of {len(layers)} did "
                    f"not run to its end in it on branch {self.name!r}; nothing was written. Run every attached "
                    "transformer inside the chunk, on each of its branches."
                )
        return [self._pending[layer] for layer in sorted(self._pending)]

    def note(self) -> None:
        """Before the chunk is written, note what scores need of the frames that it has read."""
        others = [p for p in self.branch.positions if p not in self.positions]
        self.branch.notes.wrote_chunk(self.name, len(others), len(self.read))
        if self.attention:
            shares = torch.stack(list(self.attention.values())).mean(0)
            before = self.branch.noted(ATTENTION, self.read)
            rows = [
                share[None] if old is None else torch.cat([old, share[None]])
                for old, share in zip(before, shares, strict=True)
            ]
            self.branch.note(ATTENTION, self.read, [row[-KEPT:] for row in rows])

    def clear(self) -> None:
        """Release what was collected."""
        self._pending.clear()
        self.attention.clear()


class Chunk:
    """One chunk while it runs; see `AttachedCache.chunk`.

    ``read`` holds the positions of the cached frames that are read in its branches, fixed at creation. After the exit
    of a writing chunk, ``evicted`` holds the positions of the frames that were evicted for it.
    """

    def __init__(
        self,
        running: Running[Chunk],
        layers: Sequence[range],
        branches: Mapping[str, SlotCache],
        positions: Sequence[int],
        read: Sequence[int] | None,
        write: bool,
        pin: bool,
        recorder: AttentionRecorder | None,
    ) -> None:
        self.positions = checked_positions(positions)
        self.pin = pin
        self.recorder = recorder
        self.evicted: tuple[int, ...] = ()
        self._running, self._layers = running, layers
        self._passes = {name: ChunkPass(branch, self.positions, read, write, name) for name, branch in branches.items()}
        self._write = write

    @property
    def read(self) -> tuple[int, ...]:
        """Positions of the cached frames that are read, in any branch."""
        passes = list(self._passes.values())
        return passes[0].read if len(passes) == 1 else tuple(sorted({p for each in passes for p in each.read}))

    def __enter__(self) -> Chunk:
        self._running.enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._running.leave()
        if self._write and kind is None:
            collected = {name: each.collected(self._layers) for name, each in self._passes.items()}
            evicted = set()
            for name, each in self._passes.items():
                each.note()
                evicted.update(each.branch.update(self.positions, collected[name], self.pin, each.frame_size))
            self.evicted = tuple(sorted(evicted))
        for each in self._passes.values():
            each.clear()

    def begin(self, layers: range, context: str | None, frame_size: tuple[int, int]) -> tuple[ChunkPass, Row | None]:
        """Begin a forward pass over ``layers``, in the open ``cache_context``, of frames of this size in tokens.

        Returns what it reads and writes, and the recorder's row for its shares of attention, or None without a
        recorder.

        Raises:
            InputError: the chunk has several branches, and the context names none of them; or the cached frames are of
                another size.
        """
        each = next(iter(self._passes.values())) if len(self._passes) == 1 else self._passes.get(context or "")
        if each is None:
            found = "outside of any cache_context" if context is None else f"in the cache_context {context!r}"
            raise InputError(
                f"The chunk is open for the branches {list(self._passes)}, and the transformer was called {found}; "
                f"call it inside that of a branch, such as transformer.cache_context({min(self._passes)!r})."
            )
        each.begin(layers, context, frame_size)
        each.recorded = self.recorder is not None
        row = None if self.recorder is None else self.recorder.begin(len(layers), self.positions, each.read)
        return each, row
