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

import torch
from torch import nn

from memkit.backbones.attachment import wan_of, wans_of
from memkit.errors import InputError, MemkitError
from memkit.injectors.kv_cache.attachment import CacheAttachment
from memkit.injectors.kv_cache.chunk import Chunk
from memkit.injectors.kv_cache.monitor import CacheMonitor
from memkit.injectors.kv_cache.session import load_branches, save_branches
from memkit.injectors.kv_cache.slots import SlotCache


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
        monitor: CacheMonitor | None = None,
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
            monitor: if given, records where the chunk's attention falls.

        Raises:
            InputError: a position is no whole number, is not held, or is both read and made.
            BudgetError: the write would find no room beside the pinned frames.
        """
        return Chunk(self, self.branch(branch), positions, read, write, pin, monitor)

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

    def open(self, chunk: Chunk) -> None:
        if not self.layers:
            raise MemkitError("The cache is attached to no transformer; `with cache.attach(transformer):` comes first.")
        if self._chunk is not None:
            raise MemkitError(f"The chunk at {list(self._chunk.positions)} has not ended; chunks do not nest.")
        self._chunk = chunk

    def close(self, chunk: Chunk) -> None:
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
