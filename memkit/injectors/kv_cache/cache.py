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

from memkit.backbones.unwrap import Attachable, wan_of, wans_of
from memkit.errors import InputError
from memkit.injectors.kv_cache.attachment import AttachedCache
from memkit.injectors.kv_cache.branches import Branches
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
        with cache.attach(transformer) as attached:
            for positions in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
                for t in timesteps:
                    with attached.chunk(positions):
                        velocity = transformer(latents, t, text).sample
                    latents = ...
                with attached.chunk(positions, write=True):  # once more, clean
                    transformer(latents, zero, text)

    Args:
        budget_bytes: what all branches, layers and transformers may take together; the branches share it equally and
            each allocates its part at its first write.
        branches: histories of their own, as classifier-free guidance by two calls needs: ``("cond", "uncond")``.
            The transformers of one A14B share a branch's positions; each has its own keys and values in it.
    """

    def __init__(self, budget_bytes: int, branches: Sequence[str] = ("main",)) -> None:
        self._branches = Branches(budget_bytes, branches)
        self._attached: AttachedCache | None = None

    @property
    def budget_bytes(self) -> int:
        """What all branches may take together."""
        return self._branches.budget_bytes

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches."""
        return tuple(self._branches.by_name)

    def branch(self, name: str | None = None) -> SlotCache:
        """The frames of one branch, to look at, pin, drop or reset; without a name, of the only one.

        Its layers are those of the first transformer, then those of the second.
        """
        return self._branches.one(name)

    def reset(self) -> None:
        """Forget every frame of every branch."""
        for branch in self._branches.by_name.values():
            branch.reset()

    def attach(self, *models: Attachable) -> AttachedCache:
        """Attach to each transformer, or each expert of a pipeline or backbone, until ``detach()`` or the end of the
        ``with``.

        Attached, a transformer runs inside `AttachedCache.chunk` only. What is cached stays after detaching.
        ``torch.compile`` gives the same results, but compiles anew for each chunk.

        Raises:
            InputError: no transformer, one twice, not a Wan, one that has a cache, or another number of layers than
                the frames held have.
        """
        transformers = wans_of(models)
        if self._attached is not None and self._attached.models:
            raise InputError("This cache is attached already; detach it first, or make another cache.")
        self._branches.check_layers(sum(len(model.blocks) for model in transformers))
        self._attached = AttachedCache(self._branches, transformers)
        return self._attached

    def save(self, path: str | Path) -> None:
        """Write every branch into one safetensors file, with the positions as JSON in its header."""
        save_branches(Path(path), self.budget_bytes, self._branches.by_name)

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> KVCache:
        """A saved cache on ``device``: the same frames, pins and budget; a session goes on from it to the bit.

        Raises:
            InputError: there is no such file, or it holds no cache of this version, or is damaged.
        """
        budget_bytes, branches = load_branches(Path(path), device)
        cache = KVCache(budget_bytes, tuple(branches))
        cache._branches.by_name = branches
        return cache
