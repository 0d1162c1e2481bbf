"""How a `KVCache` is attached: rotary tables for the chunk's positions, and cached frames in self-attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import KV_CACHE, VIDEO, Carrier, Table
from memkit.backbones.cache_context import listen
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_cache
from memkit.backbones.running import Running
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder, Row
from memkit.injectors.attention_shares import frame_shares
from memkit.injectors.kv_cache.branches import Branches
from memkit.injectors.kv_cache.chunk import Chunk, ChunkPass

SHARES = "cache"
"""Series of an `AttentionRecorder`: the share of each frame's attention on each cached frame."""


class AttachedCache(Attached):
    """A cache attached to transformers until ``detach()`` or the end of the ``with`` statement; its frames are kept."""

    kind = KV_CACHE
    places_frames = True
    owner: Branches

    def __init__(self, branches: Branches, models: Sequence[Model]) -> None:
        self.layers: list[range] = []  # the cache's layers of each transformer
        for model in models:
            start = self.layers[-1].stop if self.layers else 0
            self.layers.append(range(start, start + len(adapter_of(model).blocks(model))))
        self._layers_of = {id(model): span for model, span in zip(models, self.layers, strict=True)}
        self.running: Running[Chunk] = Running(self.kind, self.begin_chunk)
        self._undo: list[Callable[[], None]] = []
        super().__init__(branches, models)

    def chunk(
        self,
        positions: Sequence[int],
        branch: str | Sequence[str] | None = None,
        read: Sequence[int] | None = None,
        write: bool = False,
        pin: bool = False,
        recorder: AttentionRecorder | None = None,
    ) -> Chunk:
        """A context manager in which the attached transformers run on the latent frames at ``positions``.

        Call ``backward`` inside the ``with`` statement.

        Args:
            positions: whole numbers, one per latent frame (per patch in time), with any values and in any order.
            branch: name of the branch to read and write. Optional if the cache has only one, or inside the
                transformer's ``cache_context`` of that name. With several names, each forward pass reads and writes
                the branch that its ``cache_context`` names, as in the stock pipelines ("cond" and "uncond").
            read: positions of the cached frames to attend to: any selection, such as ``cache.branch().window(n)``; by
                default all. A chunk never attends to cached frames at its own positions.
            write: at the end, unless an exception was raised, write the keys and values of the last forward pass of
                each transformer; frames at the same positions are replaced.
            pin: never evict the frames that are written.
            recorder: if given, records the share of each frame's attention on each cached frame, as the series "cache".

        Raises:
            InputError: there is no such branch, or a position is not a whole number, is not in the cache, or is both
                read and written.
            BudgetError: the frames to be written do not fit beside the pinned frames.
            MemkitError: the cache is detached.
        """
        if not self.models:
            raise MemkitError("The cache is not attached any more; open chunks inside `with cache.attach(...)`.")
        names = [self.owner.name(branch)] if branch is None or isinstance(branch, str) else branch
        branches = {self.owner.name(name): self.owner.one(name) for name in names}
        return Chunk(self.running, self.layers, branches, positions, read, write, pin, recorder)

    def install(self, model: Model) -> None:
        """Hear the ``cache_context`` of each forward pass."""
        self.owner.attached = True
        self._undo.append(listen(model, self.owner.in_context))

    def detach(self) -> None:
        """Detach from all transformers; other attachments stay."""
        while self._undo:
            self._undo.pop()()
        self.owner.attached = False
        super().detach()

    def part(self, model: Model, layer: int) -> _CacheLayer:
        return _CacheLayer(self._layers_of[id(model)][layer], self.running, self.key)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """Rotary tables for the chunk's positions, and the chunk as state."""
        chunk = self.running.current()
        assert grid is not None
        if grid.frames != len(chunk.positions):
            raise InputError(
                f"The chunk has {len(chunk.positions)} positions, the latents {grid.frames} frames (of patches); "
                "give one position per frame."
            )
        if chunk.recorder is not None:
            refuse_cache(model, "a recorder would miss shares of attention")
        each, row = chunk.begin(self._layers_of[id(model)], self.owner.context, (grid.height, grid.width))
        cos, sin = adapter_of(model).rotary_at(model, chunk.positions, grid)
        return carrier._replace(cos=cos, sin=sin).with_state(self.key, _Forward(chunk, each, row))


class _Forward(NamedTuple):
    """One forward pass of a transformer in a chunk."""

    chunk: Chunk
    each: ChunkPass
    row: Row | None


class _CacheLayer:
    """The injection of one layer."""

    def __init__(self, layer: int, running: Running[Chunk], key: str) -> None:
        self.layer, self.running, self.key = layer, running, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Any, carrier: Carrier) -> _Forward:
        """The forward pass of the block, whose chunk must still be open: its cached frames may be evicted later."""
        forward: _Forward = carrier.state(self.key)
        if not self.running.is_running(forward.chunk):
            raise MemkitError(
                "A block was recomputed for a chunk that has ended, whose cached frames may have been evicted; call "
                "`backward` inside the `with` statement of the chunk."
            )
        return forward

    def extend(self, table: Table, attn: nn.Module, prepared: _Forward) -> str:
        """Add the cached frames to read, and collect the video's keys and values, to be written at the chunk's end."""
        chunk, (k, v) = prepared.each, table.kv[VIDEO]
        chunk.collect(self.layer, k, v)
        if not chunk.read:
            return VIDEO
        keys, values = chunk.branch.layer(self.layer).get(chunk.read)
        per_frame = k.shape[1] // len(chunk.positions)
        if (keys.shape, keys.dtype) != ((k.shape[0], len(chunk.read) * per_frame, *k.shape[2:]), k.dtype):
            raise InputError(
                f"The cached frames have {keys.shape[1] // len(chunk.read)} tokens of {list(keys.shape[2:])} in a "
                f"batch of {keys.shape[0]} and {keys.dtype}, the chunk {per_frame} of {list(k.shape[2:])} in a batch "
                f"of {k.shape[0]} and {k.dtype}; keep them the same within a session, or reset() the cache."
            )
        group = f"cache {len(table.kv)}"
        table.kv[group] = (keys.to(k.device), values.to(v.device))
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: _Forward) -> None:
        """Record the shares of attention, now that the table is complete; the output is left unchanged."""
        if prepared.row is None:
            return
        if table.routes:
            raise InputError("A recorder of a cache does not know of routed context; detach it, or leave recorder out.")
        chunk, shares = prepared.each, []
        for q in table.q[VIDEO].chunk(len(chunk.positions), dim=1):
            frame = Table({VIDEO: q}, table.kv, {VIDEO: table.sees[VIDEO]}, table.log_weight)
            shares.append(frame_shares(frame, VIDEO, group, len(chunk.read)))
        prepared.row.record(SHARES, self.layer, torch.stack(shares, dim=1))
