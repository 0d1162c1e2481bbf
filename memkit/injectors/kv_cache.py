"""`KVCache`: a stock Wan that generates chunk by chunk, each seeing the keys and values of those before it.

The model's table is "X sees X and the readable slots": a chunk of latent frames attends to itself and to cached frames,
whose keys were rotated to their own positions when they were written. Only what the caller says is written, at the end
of a chunk, so attention has no side effect and gradient checkpointing may run a block twice. Explicit objects with
``update``, ``get`` and ``reset``; positions stay absolute, with any gap (ReMind, arXiv 2605.25333; the practice of
Self-Forcing, arXiv 2506.08009, and LongLive, arXiv 2509.22622).

Text needs no reset: its keys are not cached. After a change of prompt, cached frames still carry what the old one made
of them; write their chunks again, each with ``read=branch.window(n, before=its first position)``, to have them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.base import VIDEO, Table
from memkit.backbones.wan_attention import Attachment, GroupedSelfAttention, wan_of, wans_of
from memkit.errors import InputError, MemkitError
from memkit.injectors.cache_session import load_branches, save_branches
from memkit.injectors.cache_slots import SlotCache
from memkit.positions import checked_positions, rotary_at


def frame_bytes(
    transformer: nn.Module, height: int, width: int, batch: int = 1, dtype: torch.dtype | None = None
) -> int:
    """Bytes of one cached latent frame in all layers; ``height`` and ``width`` are those of the latents.

    Wan2.1-T2V-1.3B at 480×832 (latents 60×104) in bf16: 287 MB; 14B: 1.3 GB. ``dtype`` is the model's without.
    """
    model = wan_of(transformer)
    depth, down, across = model.config.patch_size
    tokens = (height // down) * (width // across)
    inner = model.config.num_attention_heads * model.config.attention_head_dim
    return 2 * model.config.num_layers * batch * tokens * inner * (dtype or model.dtype).itemsize


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
    ) -> None:
        self.positions = checked_positions(positions)
        self.branch = branch
        self.write = write
        self.pin = pin
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
        self._cache._open(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._cache._close(self)
        if self.write and kind is None:
            self.evicted = self.branch.update(self.positions, self._collected(), self.pin)
        self._pending.clear()

    def begin(self, layers: range) -> None:
        """A forward over ``layers`` starts: what an earlier one left is no longer what will be written."""
        for layer in layers:
            self._pending.pop(layer, None)

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


class KVCache:
    """Cached keys and values for chunk-by-chunk generation with stock Wan transformers.

        cache = KVCache(budget_bytes=21 * frame_bytes(transformer, 60, 104))
        with cache.attach(transformer):
            for positions in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
                for t in timesteps:
                    with cache.chunk(positions):
                        velocity = transformer(latents, t, text).sample
                    latents = ...
                with cache.chunk(positions, write=True):  # once more, clean
                    transformer(latents, zero, text)

    Args:
        budget_bytes: what all branches, layers and transformers may take together; the branches share it equally and
            each allocates its part at its first write.
        branches: histories of their own, as classifier-free guidance by two calls needs: ``("cond", "uncond")``.
            The transformers of one A14B share a branch's positions; each has its own keys and values in it.
    """

    def __init__(self, budget_bytes: int, branches: Sequence[str] = ("main",)) -> None:
        if not branches or len(set(branches)) != len(branches):
            raise InputError(f"branches = {tuple(branches)}; give each a name of its own, and at least one.")
        self.budget_bytes = budget_bytes
        self.layers: list[range] = []  # of each attached transformer
        self._branches = {name: SlotCache(budget_bytes // len(branches)) for name in branches}
        self._chunk: Chunk | None = None

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches."""
        return tuple(self._branches)

    def branch(self, name: str | None = None) -> SlotCache:
        """The frames of one branch, to look at, pin, drop or reset; without a name, of the only one.

        Its layers are those of the first transformer, then those of the second.
        """
        if name is None and len(self._branches) == 1:
            name = next(iter(self._branches))
        if name not in self._branches:
            raise InputError(f"There is no branch {name!r}; the cache has {list(self._branches)}, name one of them.")
        return self._branches[name]

    def reset(self) -> None:
        """Forget every frame of every branch."""
        for branch in self._branches.values():
            branch.reset()

    def chunk(
        self,
        positions: Sequence[int],
        branch: str | None = None,
        read: Sequence[int] | None = None,
        write: bool = False,
        pin: bool = False,
    ) -> Chunk:
        """A `with` in which the attached transformers run on the latent frames at ``positions``.

        Args:
            positions: whole numbers, one for each latent frame (each patch in time): any value, in any order.
            branch: whose history; may be left out where there is one.
            read: positions of the cached frames it sees, a packed subset or ``cache.branch().window(n)``; without,
                every one held. A chunk never sees cached frames at its own positions.
            write: at the end, if nothing was raised, write the keys and values of the last forward of each
                transformer; frames at the same positions are replaced. ``backward`` belongs inside the chunk.
            pin: what is written shall never be evicted.

        Raises:
            InputError: a position is no whole number, is not held, or is both read and made.
            BudgetError: the write would find no room beside the pinned frames.
        """
        return Chunk(self, self.branch(branch), positions, read, write, pin)

    def attach(self, *transformers: nn.Module) -> CacheAttachment:
        """Attach to each transformer (both experts of Wan2.2 A14B) until ``detach()`` or the end of the ``with``.

        Attached, a transformer runs inside a chunk only. What is cached stays after detaching. ``torch.compile`` gives
        the same results, but compiles anew for each chunk.

        Raises:
            InputError: no transformer, one twice, not a Wan, one that has a cache, or another number of layers than
                the frames held have.
        """
        models = wans_of(transformers)
        if self.layers:
            raise InputError("This cache is attached already; detach it first, or make another cache.")
        for model in models:
            processor = model.blocks[0].attn1.processor
            if isinstance(processor, GroupedSelfAttention) and any(
                isinstance(i, _CacheLayer) for i in processor.injections
            ):
                raise InputError("The transformer has another cache attached; detach that first.")
        layers, start = [], 0
        for model in models:
            layers.append(range(start, start + len(model.blocks)))
            start += len(model.blocks)
        for name, branch in self._branches.items():
            if branch.positions and branch.layers != start:
                raise InputError(
                    f"Branch {name!r} holds frames of {branch.layers} layers, the transformers have {start}; "
                    "attach those that wrote them, or reset() it."
                )
        return CacheAttachment(self, models, layers)

    def save(self, path: str | Path) -> None:
        """Write every branch into one safetensors file, with the positions as JSON in its header."""
        save_branches(Path(path), self.budget_bytes, self._branches)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> KVCache:
        """A saved cache on ``device``: the same frames, pins and budget; a session goes on from it to the bit.

        Raises:
            InputError: there is no such file, or it holds no cache of this version, or is damaged.
        """
        budget_bytes, branches = load_branches(Path(path), device)
        cache = KVCache(budget_bytes, tuple(branches))
        cache._branches = branches
        return cache

    # -- what the chunks and the hooks say -------------------------------------------------------------------------

    def _open(self, chunk: Chunk) -> None:
        if not self.layers:
            raise MemkitError("The cache is attached to no transformer; `with cache.attach(transformer):` comes first.")
        if self._chunk is not None:
            raise MemkitError(f"The chunk at {list(self._chunk.positions)} has not ended; chunks do not nest.")
        self._chunk = chunk

    def _close(self, chunk: Chunk) -> None:
        assert self._chunk is chunk
        self._chunk = None

    def running(self) -> Chunk:
        """The chunk that is being run.

        Raises:
            MemkitError: there is none.
        """
        if self._chunk is None:
            raise MemkitError(
                "A transformer with a cache ran outside a chunk; call it in `with cache.chunk(positions):`, and "
                "`backward` too, or detach the cache."
            )
        return self._chunk


class CacheAttachment:
    """A cache on some transformers until ``detach`` or the end of the ``with``; then each model is what it was."""

    def __init__(self, cache: KVCache, models: Sequence[WanTransformer3DModel], layers: list[range]) -> None:
        first = {id(model): span[0] for model, span in zip(models, layers, strict=True)}
        self._cache = cache
        self._attachment = Attachment(models, lambda model, layer: _CacheLayer(cache, first[id(model)] + layer))
        self._hooks: list[RemovableHandle] = []
        for model, span in zip(models, layers, strict=True):
            self._hooks.append(model.rope.register_forward_hook(_positions_of(cache, span)))
            for block in model.blocks:
                self._hooks.append(block.register_forward_pre_hook(_same_chunk(cache), prepend=True))
        cache.layers = layers

    def detach(self) -> None:
        """Take the cache away; what it holds stays, and so do other injections."""
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            self._cache.layers = []
        self._hooks = []
        self._attachment.detach()

    def __enter__(self) -> CacheAttachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


class _ChunkRotary(tuple):
    """The (cos, sin) of a forward, with the chunk that it ran in."""

    chunk: Chunk


def _positions_of(cache: KVCache, layers: range) -> Any:
    """Hook of ``rope``, which a forward calls first: the tables of the chunk's own positions."""

    def hook(rope: Any, args: tuple[Tensor], _stock: Any) -> _ChunkRotary:
        chunk = cache.running()
        depth, down, across = rope.patch_size
        frames, height, width = args[0].shape[2] // depth, args[0].shape[3] // down, args[0].shape[4] // across
        if frames != len(chunk.positions):
            raise InputError(
                f"The chunk has {len(chunk.positions)} positions, the latents {frames} frames (of patches); "
                "give one position for each."
            )
        chunk.begin(layers)
        rotary = _ChunkRotary(rotary_at(rope, chunk.positions, height, width))
        rotary.chunk = chunk
        return rotary

    return hook


def _same_chunk(cache: KVCache) -> Any:
    """Hook of a block: gradient checkpointing must run it again in the chunk it first ran in, or it sees others."""

    def hook(_block: nn.Module, args: tuple[Any, ...]) -> None:
        if getattr(args[3], "chunk", None) is not cache.running():
            raise MemkitError(
                "A block ran again for a chunk that has ended, whose cached frames may be gone; call `backward` inside "
                "the chunk's own `with`."
            )

    return hook


class _CacheLayer:
    """The injection of one layer."""

    def __init__(self, cache: KVCache, layer: int) -> None:
        self.cache = cache
        self.layer = layer

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor) -> Chunk:
        """The chunk; a forward outside of one is an error."""
        return self.cache.running()

    def extend(self, table: Table, attn: nn.Module, prepared: Chunk) -> str:
        """Show the readable slots to the video, and keep the video's own keys and values for the end of the chunk."""
        k, v = table.kv[VIDEO]
        prepared.collect(self.layer, k, v)
        if not prepared.read:
            return VIDEO
        held, values = prepared.branch.get(self.layer, prepared.read)
        a_frame = k.shape[1] // len(prepared.positions)
        if (held.shape, held.dtype) != ((k.shape[0], len(prepared.read) * a_frame, *k.shape[2:]), k.dtype):
            raise InputError(
                f"The cached frames have {held.shape[1] // len(prepared.read)} tokens of {list(held.shape[2:])} in a "
                f"batch of {held.shape[0]} and {held.dtype}, the chunk {a_frame} of {list(k.shape[2:])} in a batch of "
                f"{k.shape[0]} and {k.dtype}; keep them the same within a session, or reset() the cache."
            )
        group = f"cache {len(table.kv)}"
        table.kv[group] = (held.to(k.device), values.to(v.device))
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor]) -> None:
        """Nothing: the video's row is as it should be."""
