"""Cached keys and values of the past (ReMind, arXiv 2605.25333)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.injectors.kv_cache.cache import KVCache
from memkit.injectors.kv_cache.cache import frame_bytes as cached_bytes
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe


class CachedKeys(Mechanism):
    """All past frames pass through the model once, clean, and the chunk reads their keys and values at their times.

    There are no cameras in the cache, so the probes with places are out of its reach. No gradient flows into what is
    cached: the model learns to read what it writes.
    """

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any]) -> None:
        super().__init__(transformer, probe)
        del self.frames  # there are no cameras
        self.per_frame = cached_bytes(transformer, *probe.shape[1:])

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        cache = KVCache(max(1, self.held_bytes(batch)) * len(batch))
        with cache.attach(transformer) as attached:
            if batch.memory_times:
                with attached.chunk(batch.memory_times, write=True), torch.no_grad():
                    transformer(batch.memory, torch.zeros(len(batch)), batch.text, return_dict=False)
            with attached.chunk(batch.times):
                yield

    def held_bytes(self, batch: ProbeBatch) -> int:
        return self.per_frame * len(batch.memory_times)
