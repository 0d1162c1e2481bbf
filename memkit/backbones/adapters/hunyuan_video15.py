"""The adapter of `HunyuanVideo15Transformer3DModel` (HunyuanVideo 1.5), which has dual-stream blocks alone."""

from __future__ import annotations

from typing import ClassVar

from diffusers import HunyuanVideo15Transformer3DModel
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15AttnProcessor2_0
from torch import nn

from memkit.backbones.adapters.hunyuan_video import HunyuanVideoAdapter


class HunyuanVideo15Adapter(HunyuanVideoAdapter):
    """As of HunyuanVideo; its text has the tokens of both text encoders and of the image."""

    model_class: ClassVar[type[nn.Module]] = HunyuanVideo15Transformer3DModel
    processors: ClassVar[tuple[type, ...]] = (HunyuanVideo15AttnProcessor2_0,)
