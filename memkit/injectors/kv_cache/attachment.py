"""How a `KVCache` is attached: rotary tables for the chunk's positions, and cached frames in self-attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import KV_CACHE, Carrier
from memkit.backbones.cache_context import listen
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.refusals import refuse_cache
from memkit.backbones.running import Running
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.kv_cache.branches import Branches
from memkit.injectors.kv_cache.cache_layer import CacheLayer, Forward, UnrotatedLayer, tables_at
from memkit.injectors.kv_cache.chunk import Chunk


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

    def part(self, model: Model, layer: int) -> CacheLayer:
        kind = CacheLayer if self.owner.parts.rotated else UnrotatedLayer
        return kind(self._layers_of[id(model)][layer], self.running, self.key)

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
        if each.notes_attention:
            refuse_cache(model, "a score would miss shares of attention")
        placed = each.place()
        cos, sin = adapter_of(model).rotary_at(model, placed.chunk, grid)
        read = summary = None
        if not self.owner.parts.rotated:
            read, summary = (tables_at(model, positions, grid) for positions in (placed.read, placed.summary))
        return carrier._replace(cos=cos, sin=sin).with_state(self.key, Forward(chunk, each, row, read, summary))
