"""The adapter of `WanAnimateTransformer3DModel` (Wan2.2 Animate): Wan with pose latents and a face encoder.

`WanAnimate2Transformer3DModel` is another architecture, with processors and a cache of its own, and has no adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from diffusers import WanAnimateTransformer3DModel
from diffusers.models.transformers.transformer_wan_animate import WanAttnProcessor
from torch import nn

from memkit.backbones.adapters.wan import WanAdapter
from memkit.backbones.base import FRAME_CONTEXT, KV_CACHE, QUERY_LAYERS, RECURRENT, TEACHER_FORCING

_TIMESTEPS = "it needs timesteps per token, and WanAnimate takes one per sample"


class WanAnimateAdapter(WanAdapter):
    """Memory joins the self-attention of the blocks; the face adapters between them are as ever.

    The first frame of the latents is the reference image: it has a camera of its own among camera positions.
    """

    model_class: ClassVar[type[nn.Module]] = WanAnimateTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (WanAttnProcessor,)
    unsupported: ClassVar[Mapping[str, str]] = {
        KV_CACHE: "the first latent frame of each call is the reference image, so no call can continue another one",
        RECURRENT: "the first latent frame of each call is the reference image, so no call can continue another one",
        FRAME_CONTEXT: _TIMESTEPS,
        TEACHER_FORCING: _TIMESTEPS,
        QUERY_LAYERS: "they run on more frames than the video has, for which there are no poses and faces",
    }
