"""A recurrent state of the past: block state-space memory (Echo-Memory, arXiv 2606.09803), or a matrix per head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.backbones.adapters.choice import adapter_of
from memkit.injectors.delta_memory import DeltaMemory, DeltaMemoryConfig
from memkit.injectors.state_space import StateSpaceConfig, StateSpaceMemory
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe


class CarriedState(Mechanism):
    """All past frames pass through the model once, clean, with their cameras, and leave a state of constant size.

    The chunk begins at this state. Gradients flow through it, so what is written is trained too. ``every`` is that of
    `StateSpaceConfig`, by default every block; ``matrix`` takes a `DeltaMemory` instead.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, probe: Probe[Any], every: int = 1, matrix: bool = False
    ) -> None:
        super().__init__(transformer, probe)
        self.memory = (
            DeltaMemory(DeltaMemoryConfig.of(transformer, every))
            if matrix
            else StateSpaceMemory(StateSpaceConfig.of(transformer, every))
        )
        _, down, across = adapter_of(transformer).sizes(transformer).patch_size
        self._tokens = probe.shape[1] // down, probe.shape[2] // across

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        own, past = batch.poses()
        start = batch.times[0]
        with self.frames.attach(transformer) as frames, self.memory.attach(transformer) as states:
            if batch.memory_times:
                at = [time - start for time in batch.memory_times]
                with frames.chunk(None, positions=at, cameras=past), states.chunk(write=True, through_time=True):
                    transformer(
                        batch.memory, torch.zeros(len(batch), device=batch.memory.device), batch.text, return_dict=False
                    )
            with frames.chunk(None, positions=[time - start for time in batch.times], cameras=own), states.chunk():
                yield

    def held_bytes(self, batch: ProbeBatch) -> int:
        return self.memory.state_bytes(*self._tokens) if batch.memory_times else 0
