"""Memory tokens of reference clips in a frozen model (DiT-Mem, arXiv 2511.19229)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import WanTransformer3DModel

from memkit.backbones.adapters.choice import adapter_of
from memkit.encoders.base import MemoryEncoder
from memkit.encoders.frequency import FrequencyEncoder, FrequencyEncoderConfig
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe


class EncodedClips(Mechanism):
    """The past as clips, encoded as memory tokens that every self-attention sees. The transformer is frozen.

    Tokens have no cameras, as in the paper. ``encoder`` is the class of the encoder, one with branches.
    """

    frozen = True

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        probe: Probe[Any],
        encoder: type[FrequencyEncoder] = FrequencyEncoder,
    ) -> None:
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
        self.encoder: MemoryEncoder = encoder(config)

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        with self.own_cameras(transformer, batch):
            if not batch.memory_times:
                yield
                return
            with SelfAttentionConcat(self.encoder(batch.clips)).attach(transformer):
                yield
