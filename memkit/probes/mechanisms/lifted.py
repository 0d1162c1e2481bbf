"""Latent cells in space, seen from the chunk's cameras, in a control branch (Mirage, arXiv 2606.09828)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.injectors.control_branch.branch import ControlBranch
from memkit.injectors.control_branch.config import ControlBranchConfig
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.mechanisms.surfels import known_depth
from memkit.probes.probe import Probe
from memkit.retrievers.lifted_latents import LiftedLatents


class LatentsInSpace(Mechanism):
    """What the chunk's cameras see of the past's latent cells, and a mask, in a control branch; for probes that give
    depth. No past frame is in the sequence. ``every`` is that of `ControlBranchConfig`."""

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any], every: int = 2) -> None:
        super().__init__(transformer, probe)
        channels = probe.shape[0]
        self.branch = ControlBranch(ControlBranchConfig.of(transformer, channels + 1, every)).initialise(transformer)
        self._size = probe.shape[1:]

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        control = torch.stack([self._seen(batch, sample) for sample in range(len(batch))])
        with self.own_cameras(transformer, batch), self.branch.attach(transformer) as attached, attached.chunk(control):
            yield

    def held_bytes(self, batch: ProbeBatch) -> int:
        return self._lifted(batch, 0).nbytes if batch.memory_times else 0

    def _seen(self, batch: ProbeBatch, sample: int) -> Tensor:
        own = batch.cameras
        return self._lifted(batch, sample).read(Cameras(own.c2w[sample], own.intrinsics[sample])).stacked()

    def _lifted(self, batch: ProbeBatch, sample: int) -> LiftedLatents:
        past, store = batch.memory_cameras, LiftedLatents(batch.memory.shape[1], self._size)
        if batch.memory_times:
            cameras = Cameras(past.c2w[sample], past.intrinsics[sample])
            store.add(cameras, batch.memory[sample], known_depth(batch)[sample])
        return store
