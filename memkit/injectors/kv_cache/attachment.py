"""How a `KVCache` runs on a stock Wan: the chunk's positions in the rotary tables, cached frames in the attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.attachment import Attachment
from memkit.backbones.base import VIDEO, Table
from memkit.backbones.rotary import rotary_at
from memkit.backbones.wan_attention import GroupedSelfAttention
from memkit.errors import InputError, MemkitError
from memkit.injectors.kv_cache.chunk import Chunk

if TYPE_CHECKING:
    from memkit.injectors.kv_cache.cache import KVCache


class CacheAttachment:
    """A cache on some transformers until ``detach`` or the end of the ``with``; then each model is what it was."""

    def __init__(self, cache: KVCache, models: Sequence[WanTransformer3DModel], layers: list[range]) -> None:
        for model in models:
            processor = model.blocks[0].attn1.processor
            if isinstance(processor, GroupedSelfAttention) and any(
                isinstance(i, _CacheLayer) for i in processor.injections
            ):
                raise InputError("The transformer has another cache attached; detach that first.")
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
        tokens_per_frame = k.shape[1] // len(prepared.positions)
        if (held.shape, held.dtype) != ((k.shape[0], len(prepared.read) * tokens_per_frame, *k.shape[2:]), k.dtype):
            raise InputError(
                f"The cached frames have {held.shape[1] // len(prepared.read)} tokens of {list(held.shape[2:])} in a "
                f"batch of {held.shape[0]} and {held.dtype}, the chunk {tokens_per_frame} of {list(k.shape[2:])} in a "
                f"batch of {k.shape[0]} and {k.dtype}; keep them the same within a session, or reset() the cache."
            )
        group = f"cache {len(table.kv)}"
        table.kv[group] = (held.to(k.device), values.to(v.device))
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor]) -> None:
        """Nothing to reduce: the video's row is as it should be. A monitor takes its look, now that all is there."""
        chunk = self.cache.running()
        if chunk.row is not None:
            chunk.row.record(self.layer, table, VIDEO, group)
