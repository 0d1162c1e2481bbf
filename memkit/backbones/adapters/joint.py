"""`JointAdapter`: what the adapters of models that join text and video in one attention have in common."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from memkit.backbones.base import BLOCK_LAYERS, FRAME_CONTEXT, FRAME_VISIBILITY, QUERY_LAYERS, TEACHER_FORCING
from memkit.backbones.protocol import BackboneAdapter, Model


class JointAdapter(BackboneAdapter):
    """Memory tokens are seen by text and video.

    Text tokens see all that the video sees in such a model, whose next block reads their state, so they see memory and,
    with a KV cache, the cached frames. Each chunk computes the text anew, as in one causal pass in which each chunk has
    a copy of the text. DiT-Mem (arXiv 2511.19229) has no joint attention: this is our reading.

    Text and video are projected apart, so that in a batch of which only some samples have memory, those without it get
    the stock model's results up to the rounding of its matrix products.
    """

    rotary_argument: ClassVar[str] = "image_rotary_emb"
    norms_each_head: ClassVar[bool] = True

    def why_not(self, model: Model, kind: str) -> str | None:
        """Also what acts on the attention of the video alone."""
        if kind in (FRAME_VISIBILITY, BLOCK_LAYERS):
            return "it is for attention of the video alone, and this model attends to text and video jointly"
        return super().why_not(model, kind)

    def tables(self, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The model's or the pipelines' own are [S,D]."""
        return rotary[0][None, :, None], rotary[1][None, :, None]


def unsupported_by(model: str) -> dict[str, str]:
    """The kinds that a joint model with one timestep per sample cannot have; ``model`` is its name."""
    timesteps = f"it needs timesteps per token, and {model} takes one per sample"
    return {
        FRAME_CONTEXT: timesteps,
        TEACHER_FORCING: timesteps,
        QUERY_LAYERS: "they leave open what text sees, which this model attends to jointly with the video",
    }
