"""How a `KVCache` runs on a stock Wan: the chunk's positions in the rotary tables, cached frames in the attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from memkit.backbones.attached import Attached, Running
from memkit.backbones.base import VIDEO, Carrier, Table
from memkit.backbones.rotary import rotary_at
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder, Row
from memkit.injectors.attention_shares import frame_shares
from memkit.injectors.kv_cache.branches import Branches
from memkit.injectors.kv_cache.chunk import Chunk

SHARES = "cache"
"""The series of an `AttentionRecorder` that holds each frame's share of attention on each cached frame."""


class AttachedCache(Attached):
    """A cache on some transformers until ``detach`` or the end of the ``with``; what it holds stays."""

    kind = "a KV cache"
    places_frames = True
    owner: Branches

    def __init__(self, branches: Branches, models: Sequence[WanTransformer3DModel]) -> None:
        self.layers: list[range] = []  # of each transformer, in the cache
        for model in models:
            start = self.layers[-1].stop if self.layers else 0
            self.layers.append(range(start, start + len(model.blocks)))
        self._layers_of = {id(model): span for model, span in zip(models, self.layers, strict=True)}
        self.running: Running[Chunk] = Running(self.kind)
        super().__init__(branches, models)

    def chunk(
        self,
        positions: Sequence[int],
        branch: str | None = None,
        read: Sequence[int] | None = None,
        write: bool = False,
        pin: bool = False,
        recorder: AttentionRecorder | None = None,
    ) -> Chunk:
        """A ``with`` in which the attached transformers run on the latent frames at ``positions``.

        Args:
            positions: whole numbers, one for each latent frame (each patch in time): any value, in any order.
            branch: whose history; may be left out where there is one.
            read: positions of the cached frames that it sees, a packed subset or ``cache.branch().window(n)``; without,
                every one held. A chunk never sees cached frames at its own positions.
            write: at the end, if nothing was raised, write the keys and values of the last forward of each
                transformer; frames at the same positions are replaced. ``backward`` belongs inside the chunk.
            pin: what is written shall never be evicted.
            recorder: if given, records the share of each frame's attention on each cached frame, as the series "cache".

        Raises:
            InputError: a position is no whole number, is not held, or is both read and written.
            BudgetError: the write would find no room beside the pinned frames.
            MemkitError: the cache is detached.
        """
        if not self.models:
            raise MemkitError("The cache is not attached any more; open chunks inside `with cache.attach(...)`.")
        history = self.owner.one(branch)
        return Chunk(self.running, self.layers, history, positions, read, write, pin, recorder)

    def part(self, model: WanTransformer3DModel, layer: int) -> _CacheLayer:
        return _CacheLayer(self._layers_of[id(model)][layer], self.running, self.key)

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        """The tables of the chunk's own positions, and the chunk."""
        chunk = self.running.current()
        depth, down, across = model.config.patch_size
        frames, height, width = latents.shape[2] // depth, latents.shape[3] // down, latents.shape[4] // across
        if frames != len(chunk.positions):
            raise InputError(
                f"The chunk has {len(chunk.positions)} positions, the latents {frames} frames (of patches); "
                "give one position for each."
            )
        row = chunk.begin(self._layers_of[id(model)])
        cos, sin = rotary_at(model.rope, chunk.positions, height, width)
        return carrier._replace(cos=cos, sin=sin).with_state(self.key, _Forward(chunk, row))


class _Forward(NamedTuple):
    """One forward of a transformer in a chunk."""

    chunk: Chunk
    row: Row | None


class _CacheLayer:
    """The injection of one layer."""

    def __init__(self, layer: int, running: Running[Chunk], key: str) -> None:
        self.layer, self.running, self.key = layer, running, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor, carrier: Carrier) -> _Forward:
        """The forward that the block belongs to; its chunk must be open still, or the cached frames may be gone."""
        forward: _Forward = carrier.state(self.key)
        if not self.running.is_running(forward.chunk):
            raise MemkitError(
                "A block ran again for a chunk that has ended, whose cached frames may be gone; call `backward` inside "
                "the chunk's own `with`."
            )
        return forward

    def extend(self, table: Table, attn: nn.Module, prepared: _Forward) -> str:
        """Show the readable slots to the video, and keep the video's own keys and values for the end of the chunk."""
        chunk, (k, v) = prepared.chunk, table.kv[VIDEO]
        chunk.collect(self.layer, k, v)
        if not chunk.read:
            return VIDEO
        held, values = chunk.branch.get(self.layer, chunk.read)
        per_frame = k.shape[1] // len(chunk.positions)
        if (held.shape, held.dtype) != ((k.shape[0], len(chunk.read) * per_frame, *k.shape[2:]), k.dtype):
            raise InputError(
                f"The cached frames have {held.shape[1] // len(chunk.read)} tokens of {list(held.shape[2:])} in a "
                f"batch of {held.shape[0]} and {held.dtype}, the chunk {per_frame} of {list(k.shape[2:])} in a batch "
                f"of {k.shape[0]} and {k.dtype}; keep them the same within a session, or reset() the cache."
            )
        group = f"cache {len(table.kv)}"
        table.kv[group] = (held.to(k.device), values.to(v.device))
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: _Forward) -> None:
        """The video's row is as it should be; a recorder takes its shares now that the table is complete."""
        if prepared.row is None:
            return
        chunk, shares = prepared.chunk, []
        for q in table.q[VIDEO].chunk(len(chunk.positions), dim=1):
            frame = Table({VIDEO: q}, table.kv, {VIDEO: table.sees[VIDEO]}, table.log_weight)
            shares.append(frame_shares(frame, VIDEO, group, len(chunk.read)))
        prepared.row.record(SHARES, self.layer, torch.stack(shares, dim=1))
