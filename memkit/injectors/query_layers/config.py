"""`QueryLayersConfig`: the number of query layers, the input of the queries, and the visibility between the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memkit.checks import LAYERS, WIDTHS, check_fields
from memkit.errors import InputError
from memkit.injectors.camera_encoder import check_annotations


@dataclass(frozen=True)
class QueryLayersConfig:
    """Sizes of the backbone, and the attention connectivity of context C, queries Q and prediction P.

    Where the paper (MemLearner, arXiv 2606.31734) does not specify a setting, the default is our reading of it.
    """

    dim: int = 1536
    """Width of the backbone's hidden states."""
    blocks: int = 30
    """Number of transformer blocks of the backbone."""
    layers: int = 5
    """Number of query layers, which are the first blocks. The paper uses 5 of 28, and found 10 to be no better."""
    query: Literal["noise", "copy", "learned"] = "copy"
    """Input latents of Q: "copy" for the noisy latents of P at each step, "noise" for noise that is fixed per chunk, or
    "learned" for trained latents. The paper uses noise, and found a copy to be as good."""
    query_shape: tuple[int, int, int, int] | None = None
    """Shape [C, F, H, W] of the learned latents; only with ``query="learned"``."""
    query_time: Literal["clean", "shared"] = "shared"
    """Timestep of Q: "shared" with P, or "clean" for 0. Only a copy of P at the timestep of P leaves the outputs of the
    backbone unchanged as long as there is no context; with other settings, training learns to ignore Q."""
    context_time: Literal["clean", "shared"] = "clean"
    """Timestep of C: "clean" for 0, or "shared" with P, for which C is recomputed at each step."""
    query_sees_prediction: bool = True
    """Whether Q attends to P in the query layers, which the paper found to be essential: −4 dB without it."""
    query_sees_query: bool = False
    """Whether Q attends to itself."""
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, such as rendered ("exact") or estimated; each kind has its own encoder."""

    def __post_init__(self) -> None:
        check_fields(self, dim=WIDTHS, blocks=LAYERS, query_shape=WIDTHS)
        check_annotations(self.cameras)
        if not 0 < self.layers <= self.blocks:
            raise InputError(f"layers is {self.layers} of {self.blocks} blocks; give 1 or more, and not more than all.")
        if (self.query == "learned") != (self.query_shape is not None):
            raise InputError(
                f"query is {self.query!r} and query_shape is {self.query_shape}; give query_shape=(channels, frames, "
                'height, width) with query="learned", and only then.'
            )

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
        """For Wan2.2 TI2V 5B: 5 of 30 blocks."""
        return cls(dim=3072)
