"""`QueryLayersConfig`: which layers are query layers, what the queries start from, and the visibility of the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memkit.errors import InputError


@dataclass(frozen=True)
class QueryLayersConfig:
    """What is trained and who sees whom; where the paper is silent, the default is our reading of it."""

    dim: int = 1536
    """Width of the backbone."""
    blocks: int = 30
    """Of the backbone."""
    layers: int = 5
    """The first so many are query layers; the paper takes 5 of 28, and found 10 no better."""
    query: Literal["noise", "copy", "learned"] = "copy"
    """What Q starts from: the noisy P of each step; noise, fixed for a chunk; or trained latents. The paper has noise,
    and found a copy as good."""
    query_shape: tuple[int, int, int, int] | None = None
    """[C, F, H, W] of trained latents."""
    query_time: Literal["clean", "shared"] = "shared"
    """Timestep of Q: that of P, or 0. A copy of P at P's changes nothing of a model until it sees context; all else
    does, and a model trained on from there learns to look away from Q."""
    context_time: Literal["clean", "shared"] = "clean"
    """Timestep of C: 0, or that of P, which has C run anew at each step."""
    query_sees_prediction: bool = True
    """The edge that the paper found to be essential: without it −4 dB."""
    query_sees_query: bool = False
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, each with an encoder of its own: rendered ("exact"), estimated, …"""

    def __post_init__(self) -> None:
        if not 0 < self.layers <= self.blocks:
            raise InputError(f"layers is {self.layers} of {self.blocks} blocks; give 1 or more, and not more than all.")
        if (self.query == "learned") != (self.query_shape is not None):
            raise InputError('query="learned" and query_shape=(channels, frames, height, width) go together.')

    @classmethod
    def tiny(cls) -> QueryLayersConfig:
        """For ``WanBackbone.tiny()``: 2 of 8 blocks."""
        return cls(dim=192, blocks=8, layers=2)

    @classmethod
    def wan_1_3b(cls) -> QueryLayersConfig:
        """For Wan2.1 T2V 1.3B: 5 of 30 blocks."""
        return cls()

    @classmethod
    def wan_5b(cls) -> QueryLayersConfig:
        """For Wan2.2 TI2V 5B."""
        return cls(dim=3072)
