"""Memory tokens of reference clips in a frozen model (DiT-Mem, arXiv 2511.19229)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from diffusers import WanTransformer3DModel

from memkit.backbones.adapters.choice import adapter_of
from memkit.encoders.frequency import (
    FrequencyEncoder,
    FrequencyEncoderConfig,
    HighPassOnlyEncoder,
    LowPassOnlyEncoder,
    NoFilterEncoder,
)
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe

Bands = Literal["low and high", "low", "high", "whole"]
ENCODERS: dict[Bands, type[FrequencyEncoder]] = {
    "low and high": FrequencyEncoder,
    "low": LowPassOnlyEncoder,
    "high": HighPassOnlyEncoder,
    "whole": NoFilterEncoder,
}


class EncodedClips(Mechanism):
    """The past as clips, encoded as memory tokens that every self-attention sees. The transformer is frozen.

    Tokens have no cameras, as in the paper. ``bands`` are the frequencies that the encoder's two branches pass.
    """

    frozen = True
    parts = ("low", "high")

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any], bands: Bands = "low and high") -> None:
        super().__init__(transformer, probe)
        channels, size, _ = probe.shape
        width = adapter_of(transformer).sizes(transformer).width
        config = FrequencyEncoderConfig(
            channels,
            width,
            hidden=32,
            width=64,
            heads=4,
            layers=1,
            stem_stride=(1, 2, 2),
            patch=(1, size // 2, size // 2),
        )
        self.encoder = ENCODERS[bands](config)

    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> AbstractContextManager[Any]:
        return self._injected(transformer, batch, lambda: self.encoder(batch.clips))

    def shown_with(
        self, transformer: WanTransformer3DModel, batch: ProbeBatch, other: ProbeBatch, part: str
    ) -> AbstractContextManager[Any]:
        def mixed() -> Memory:
            low, high = self._branches(batch)
            low_of_other, high_of_other = self._branches(other)
            both = (low_of_other, high) if part == "low" else (low, high_of_other)
            return Memory(torch.cat(both, dim=1))

        return self._injected(transformer, batch, mixed)

    def _branches(self, batch: ProbeBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder.low_and_high(self.encoder(batch.clips), batch.clips.shape[1])

    @contextmanager
    def _injected(
        self, transformer: WanTransformer3DModel, batch: ProbeBatch, memory: Callable[[], Memory]
    ) -> Iterator[None]:
        with self.own_cameras(transformer, batch):
            if not batch.memory_times:
                yield
                return
            with SelfAttentionConcat(memory()).attach(transformer):
                yield
