"""The injection of a cache into one layer: cached frames as one more group of keys that the video sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import VIDEO, Carrier, Table
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.rotary import rotate
from memkit.backbones.running import Running
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import Row
from memkit.injectors.attention_shares import frame_shares
from memkit.injectors.kv_cache.chunk import Chunk, ChunkPass
from memkit.injectors.kv_cache.layer import Read
from memkit.injectors.kv_cache.shelves import Angles

SHARES = "cache"
"""Series of an `AttentionRecorder`: the share of each frame's attention on each cached frame."""


class Forward(NamedTuple):
    """One forward pass of a transformer in a chunk."""

    chunk: Chunk
    each: ChunkPass
    row: Row | None
    read: Angles | None
    """Of the cached frames, where keys are stored before rotation."""
    summary: Angles | None
    """Of the summary frames."""


def tables_at(model: Model, positions: Sequence[int], grid: Grid) -> Angles | None:
    """Rotary tables for frames at ``positions``, which may repeat; None where there are none."""
    if not positions:
        return None
    distinct = sorted(set(positions))
    rows = [distinct.index(p) for p in positions]
    tables = adapter_of(model).rotary_at(model, distinct, grid)
    cos, sin = (x.unflatten(1, (len(distinct), -1))[:, rows].flatten(1, 2) for x in tables)
    return cos, sin


class CacheLayer:
    """The injection of one layer."""

    def __init__(self, layer: int, running: Running[Chunk], key: str) -> None:
        self.layer, self.running, self.key = layer, running, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Any, carrier: Carrier) -> Forward:
        """The forward pass of the block, whose chunk must still be open: its cached frames may be evicted later."""
        forward: Forward = carrier.state(self.key)
        if not self.running.is_running(forward.chunk):
            raise MemkitError(
                "A block was recomputed for a chunk that has ended, whose cached frames may have been evicted; call "
                "`backward` inside the `with` statement of the chunk."
            )
        return forward

    def extend(self, table: Table, attn: nn.Module, prepared: Forward) -> str:
        """Add the cached frames to read, and collect the video's keys and values, to be written at the chunk's end."""
        chunk, (k, v) = prepared.each, table.kv[VIDEO]
        self.collect(chunk, k, v)
        group = VIDEO
        if chunk.read:
            read = self._read(chunk, k, prepared.read)
            if (select := chunk.branch.parts.select) is not None:
                read = Read(*select.apply(table.q[VIDEO], *read))
            group = _add(table, "cache", read.k.to(k.device), read.v.to(v.device))
            if chunk.branch.parts.rotated and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
                table.kv[VIDEO] = chunk.branch.layer(self.layer).behind(chunk.read, k, v) or (k, v)
            if read.log_weight is not None:
                table.log_weight[group] = read.log_weight.to(k.device)
        if prepared.summary is not None and chunk.branch.averages is not None:
            tokens = k.shape[1] // len(chunk.positions)
            averages = (x.expand(-1, -1, tokens, -1, -1).flatten(1, 2) for x in chunk.branch.averages[self.layer])
            keys, values = (x.to(like) for x, like in zip(averages, (k, v), strict=True))
            _add(table, "cache summary", rotate(keys, *prepared.summary), values)
        return group

    def collect(self, chunk: ChunkPass, k: Tensor, v: Tensor) -> None:
        """Collect the keys and values of the video, of which the keys are rotated."""
        chunk.collect(self.layer, k, v)

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: Forward) -> None:
        """Record the shares of attention, now that the table is complete; the output is left unchanged."""
        chunk, row = prepared.each, prepared.row
        if row is None and not chunk.notes_attention:
            return
        if table.routes:
            raise InputError("A recorder of a cache does not know of routed context; detach it, or leave recorder out.")
        shares = []
        for q in table.q[VIDEO].chunk(len(chunk.positions), dim=1):
            frame = Table({VIDEO: q}, table.kv, {VIDEO: table.sees[VIDEO]}, table.log_weight)
            shares.append(frame_shares(frame, VIDEO, group, len(chunk.read)))
        if row is not None:
            row.record(SHARES, self.layer, torch.stack(shares, dim=1))
        if chunk.notes_attention:
            chunk.attention[self.layer] = torch.stack(shares).mean((0, 1)).cpu()

    def _read(self, chunk: ChunkPass, k: Tensor, tables: Angles | None) -> Read:
        """The frames that the chunk reads. Raises `InputError` where they are not like the chunk's own keys."""
        layer, per_frame = chunk.branch.layer(self.layer), k.shape[1] // len(chunk.positions)
        held = layer.layout
        assert held is not None
        own = (k.shape[0], per_frame, *k.shape[2:], k.dtype)
        if (held.batch, held.tokens, held.heads, held.dim, held.dtype) != own:
            raise InputError(
                f"The cached frames have {held.tokens} tokens of {[held.heads, held.dim]} in a batch of {held.batch} "
                f"and {held.dtype}, the chunk {per_frame} of {list(k.shape[2:])} in a batch of {k.shape[0]} and "
                f"{k.dtype}; keep them the same within a session, or reset() the cache."
            )
        read = layer.read(chunk.read, tables)
        if chunk.branch.parts.select is not None and (chunk.notes_attention or chunk.recorded):
            raise InputError("Shares of attention per frame are not of a selection; leave select or the recorder out.")
        if len(set(read.tokens)) > 1 and (chunk.notes_attention or chunk.recorded):
            raise InputError(
                "Shares of attention per frame need frames of one number of tokens, and the places of the cache hold "
                "different ones; read frames of one place, or leave the recorder out."
            )
        return read


class UnrotatedLayer(CacheLayer):
    """The injection of one layer into a cache of keys before rotation: it rotates them as the stock processor does."""

    def position(self, hidden: Tensor, carrier: Carrier) -> Forward:
        """The forward pass, in which the keys are collected."""
        return carrier.state(self.key)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: Forward
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Collect the keys before their rotation, and rotate."""
        position.each.collect(self.layer, k, v)
        return rotate(q, *rotary), rotate(k, *rotary), v

    def leave(self, y: Tensor, project: Callable[[Tensor], Tensor], position: Forward) -> Tensor:
        """The layer's own projection."""
        return project(y)

    def collect(self, chunk: ChunkPass, k: Tensor, v: Tensor) -> None:
        """They are collected already."""


def _add(table: Table, name: str, k: Tensor, v: Tensor) -> str:
    """Add a group before the video, that is seen by all who see the video; returns its name."""
    group = f"{name} {len(table.kv)}"
    table.kv[group] = (k, v)
    for name, row in table.sees.items():
        if VIDEO in row:
            at = row.index(VIDEO)
            table.sees[name] = (*row[:at], group, *row[at:])
    return group
