"""Cached keys and values of the past (ReMind, arXiv 2605.25333)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from diffusers import WanTransformer3DModel

from memkit.cameras.cameras import Cameras
from memkit.cameras.path import CameraPath
from memkit.checks import check_number
from memkit.injectors.kv_cache.cache import KVCache
from memkit.injectors.kv_cache.cache import frame_bytes as cached_bytes
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.positions.pm_rope import PMRoPE, PMRoPEConfig
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe


class CachedKeys(Mechanism):
    """All past frames pass through the model once, clean, and the chunk reads their keys and values at their times.

    ``cameras`` is the mode of `PMRoPE`, by which keys and values keep their cameras; with "off", probes with places
    are out of reach. Frames are written ``at_once``, by default all, and see each other and
    what was written before. No gradient flows into what is cached: the model learns to read what it writes.

    ``parts`` are those of the cache, such as the storage, and ``share`` the part of the past frames, in (0, 1], that it
    has room for; with less than 1, write few frames ``at_once``, as the others are evicted by ``parts.keep``.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        probe: Probe[Any],
        cameras: Literal["off", "phase", "full"] = "phase",
        at_once: int | None = None,
        parts: CacheParts = CacheParts(),  # noqa: B008  # frozen
        share: float = 1.0,
    ) -> None:
        check_number("share", share, 1e-6, 1)
        super().__init__(transformer, probe)
        del self.frames  # cameras are in the positions
        self.per_frame = cached_bytes(transformer, *probe.shape[1:], storage=parts.storage)
        self.at_once, self.cache_parts, self.share = at_once, parts, share
        self.positions = PMRoPE(PMRoPEConfig.of(transformer, cameras))

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        past, budget = len(batch.memory_times), max(1, self.held_bytes(batch)) * len(batch)
        cache = KVCache(budget, parts=self.cache_parts)
        path = _path(batch)
        with ExitStack() as stack:
            attached = stack.enter_context(cache.attach(transformer))
            cameras = None if self.positions.config.mode == "off" else self.positions.attach(transformer)
            if cameras is not None:
                stack.enter_context(cameras)

            def at(frames: Sequence[int]) -> AbstractContextManager[Any]:
                return nullcontext() if cameras is None else cameras.chunk(path.frames(frames))

            clean, size = torch.zeros(len(batch), device=batch.memory.device), self.at_once or max(1, past)
            for rows in (range(start, min(start + size, past)) for start in range(0, past, size)):
                times = batch.memory_times[rows.start : rows.stop]
                with at(rows), attached.chunk(times, write=True), torch.no_grad():
                    transformer(batch.memory[:, :, rows.start : rows.stop], clean, batch.text, return_dict=False)
            with at(range(past, len(path))), attached.chunk(batch.times):
                yield

    def held_bytes(self, batch: ProbeBatch) -> int:
        return self.per_frame * math.ceil(self.share * len(batch.memory_times))


def _path(batch: ProbeBatch) -> CameraPath:
    """The cameras of the past and of the chunk, normalised once."""
    both = batch.memory_cameras, batch.cameras
    return CameraPath.of(
        Cameras(
            torch.cat([each.c2w for each in both], 1).float(), torch.cat([each.intrinsics for each in both], 1).float()
        )
    )
