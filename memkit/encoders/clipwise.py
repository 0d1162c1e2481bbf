"""`ClipwiseEncoder`: the base of encoders whose tokens of a clip depend on that clip alone."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from memkit.encoders.base import MemoryEncoder
from memkit.encoders.clips import check_clips, memory_of_clips
from memkit.memory import Memory


class ClipwiseEncoder(MemoryEncoder):
    """The features of a clip are its tokens, as a subclass gives them in ``_encode``."""

    config: Any
    out: nn.Linear
    """The last layer, in whose dtype clips are encoded."""

    def _encode(self, clips: Float[Tensor, "clips channels time height width"]) -> Float[Tensor, "clips tokens dim"]:
        """The tokens of each clip."""
        raise NotImplementedError

    def clip_features(
        self, clips: Float[Tensor, "clips channels time height width"]
    ) -> Float[Tensor, "clips features size"]:
        """The tokens of each clip."""
        check_clips(clips[:, None], None, self.config.latent_channels)
        return self._encode(clips.to(self.out.weight.dtype))

    def from_features(
        self, features: Float[Tensor, "batch clips features size"], mask: Bool[Tensor, "batch clips"] | None = None
    ) -> Memory:
        """The memory of clips by their tokens."""
        return self.with_gate(memory_of_clips(features, mask))
