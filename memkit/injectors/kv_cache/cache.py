"""`KVCache`: chunk-by-chunk generation with a stock transformer, each chunk with the keys and values of earlier ones.

A chunk of latent frames attends to itself and to cached frames, whose keys were rotated to their own positions when
they were written. Frames are written only on request, at the end of a chunk, so attention has no side effects and
gradient checkpointing may run a block twice. Positions are absolute and may have gaps (ReMind, arXiv 2605.25333; as in
Self-Forcing, arXiv 2506.08009, and LongLive, arXiv 2509.22622).

A new prompt needs no reset, as keys of the text are not cached. But cached frames were computed with the old prompt; to
recompute them, write their chunks again, each with ``read=branch.window(n, before=<its first position>)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import KV_CACHE
from memkit.backbones.cache_context import listen
from memkit.backbones.unwrap import Attachable, transformer_of, transformers_of
from memkit.checks import check_whole
from memkit.display import counted, described, html_table, listed, size_of
from memkit.errors import InputError
from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.branches import Branches
from memkit.injectors.kv_cache.layer import KV, Keys, LayerCache
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.session import load_branches, save_branches
from memkit.injectors.kv_cache.slots import SlotCache
from memkit.injectors.kv_cache.storage.base import Exact, FrameLayout, Storage


def frame_bytes(
    transformer: nn.Module,
    height: int,
    width: int,
    batch: int = 1,
    dtype: torch.dtype | None = None,
    storage: Storage = Exact(),  # noqa: B008  # frozen
) -> int:
    """Bytes of one cached latent frame in all layers; ``height`` and ``width`` are those of the latents.

    ``dtype`` is by default that of the model. For Wan2.1-T2V-1.3B at 480×832 pixels (latents of 60×104) in bf16 it is
    287 MB; for the 14B, 1.3 GB. ``storage`` is the form in which it is held.

    Raises `InputError` for sides and batches below 1.
    """
    check_whole("height", height, 1)
    check_whole("width", width, 1)
    check_whole("batch", batch, 1)
    model = transformer_of(transformer)
    sizes = adapter_of(model).sizes(model)
    _, down, across = sizes.patch_size
    tokens = (height // down) * (width // across)
    kind = dtype or model.dtype
    layout = FrameLayout(batch, tokens, sizes.heads, sizes.head_dim, sizes.head_dim, kind, kind)
    return sizes.layers * sum(x.nbytes for x in storage.encode(layout.zeros(torch.device("meta"))))


class KVCache:
    """Cached keys and values for chunk-by-chunk generation with stock transformers.

        cache = KVCache(budget_bytes=21 * frame_bytes(transformer, 60, 104))
        with cache.attach(transformer) as attached:
            for positions in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
                for t in timesteps:
                    with attached.chunk(positions):
                        velocity = transformer(latents, t, text).sample
                    latents = ...
                with attached.chunk(positions, write=True):  # once more with the clean latents
                    transformer(latents, zero, text)

    Args:
        budget_bytes: memory for all branches, layers and transformers together; each branch gets an equal share, which
            it allocates at its first write.
        branches: names of the branches, which are independent caches. Classifier-free guidance with two calls needs
            two: ``("cond", "uncond")``. The two experts of an A14B use the same branch, with the same positions, but
            each with its own keys and values.
        num_layers: number of layers of all transformers together. It is needed only to `update` single layers of a
            cache that was not attached yet.
        parts: which frames are kept, where, in which form, and at which positions they are read; by default the newest
            ones, as they were computed.

    The cache is an explicit object: what an attached transformer does with it, a processor of your own can do with
    `get` and `update`, layer by layer.
    """

    def __init__(
        self,
        budget_bytes: int,
        branches: Sequence[str] = ("main",),
        num_layers: int = 0,
        parts: CacheParts = CacheParts(),  # noqa: B008  # frozen
    ) -> None:
        self._branches = Branches(budget_bytes, branches, num_layers, parts)

    def __repr__(self) -> str:
        branches = [(name, branch.positions) for name, branch in self._branches.by_name.items()]
        held = [f"{name}: {counted(len(at), 'frame')}{f' at {listed(at)}' if at else ''}" for name, at in branches]
        return described(self, *held, f"{size_of(self.nbytes)} of {size_of(self.budget_bytes)}")

    def _repr_html_(self) -> str:
        rows = []
        for name, branch in self._branches.by_name.items():
            room = "" if branch.capacity is None else branch.capacity
            used = size_of(sum(branch.place_bytes))
            rows.append([name, listed(branch.positions), listed(branch.pinned), room, branch.layers, used])
        return html_table(repr(self), ["branch", "frames", "pinned", "room for", "layers", "allocated"], rows)

    @property
    def nbytes(self) -> int:
        """Bytes that all branches have allocated, in all places; 0 until the first write."""
        return sum(sum(branch.place_bytes) for branch in self._branches.by_name.values())

    @property
    def budget_bytes(self) -> int:
        """Budget of all branches together, in bytes."""
        return self._branches.budget_bytes

    @property
    def parts(self) -> CacheParts:
        """What the cache is made of."""
        return self._branches.parts

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches."""
        return tuple(self._branches.by_name)

    def branch(self, name: str | None = None) -> SlotCache:
        """One branch, to inspect, pin, drop or reset its frames; without a name, the only branch, or that of the open
        ``cache_context`` of a transformer that is attached or that the cache follows.

        Its layers are those of the first transformer, followed by those of the second.
        """
        return self._branches.one(name)

    def layer(self, layer: int, branch: str | None = None) -> LayerCache:
        """One layer of a branch (see `branch`), which has ``update``, ``get`` and ``reset`` of its own."""
        return self.branch(branch).layer(layer)

    def update(
        self, layer: int, positions: Sequence[int], k: Keys, v: Keys, branch: str | None = None, pin: bool = False
    ) -> tuple[int, ...]:
        """Write the keys, rotated to their positions, and values of frames in one layer; see `LayerCache.update`."""
        return self.layer(layer, branch).update(positions, k, v, pin)

    def get(self, layer: int, positions: Sequence[int] | None = None, branch: str | None = None) -> KV:
        """The keys and values of frames in one layer, by default of all; see `LayerCache.get`."""
        return self.branch(branch).get(layer, positions)

    def reset(self) -> None:
        """Drop all frames of all branches."""
        for branch in self._branches.by_name.values():
            branch.reset()

    @contextmanager
    def follow(self, *models: nn.Module) -> Iterator[None]:
        """Inside, the ``cache_context`` of these models names the branch where none is named.

        For processors of your own in a pipeline with guidance; `attach` does the same for the transformers that it
        attaches to.
        """
        with ExitStack() as stack:
            for model in models:
                stack.callback(listen(model, self._branches.in_context))
            yield

    def attach(self, *models: Attachable) -> AttachedCache:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        While attached, a transformer runs only inside `AttachedCache.chunk`. Cached frames are kept after detaching.
        ``torch.compile`` gives the same results, but recompiles for each chunk.

        Raises:
            InputError: no transformer is given, one is repeated, cannot have a cache or already has one, this cache
                is attached already, or its frames have another number of layers.
        """
        transformers = transformers_of(models, KV_CACHE)
        if self._branches.attached:
            raise InputError("This cache is attached already; detach it first, or create another cache.")
        self._branches.expect_layers(sum(len(adapter_of(model).blocks(model)) for model in transformers))
        return AttachedCache(self._branches, transformers)

    def save(self, path: str | Path) -> None:
        """Write all branches to one safetensors file, with the positions as JSON in its header."""
        save_branches(Path(path), self._branches)

    @staticmethod
    def load(
        path: str | Path,
        device: torch.device | str = "cpu",
        parts: CacheParts = CacheParts(),  # noqa: B008  # frozen
    ) -> KVCache:
        """Load a saved cache to ``device``: the same frames, pins and budget, so that a session continues bit for bit.

        ``parts`` are those that it was saved with. Scores, places and budgets beyond the first may be others.

        Raises:
            InputError: there is no such file, it does not contain a cache of this version, it is damaged, or it was
                saved with another storage or summary, or with keys of the other kind.
        """
        branches = load_branches(Path(path), device, parts)
        cache = KVCache(branches.budget_bytes, tuple(branches.by_name), 0, parts)
        cache._branches = branches
        return cache
