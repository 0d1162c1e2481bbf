"""The step that encodes prompts, with or without guidance."""

from __future__ import annotations

from typing import Any

from diffusers.modular_pipelines.wan.encoders import WanTextEncoderStep
from torch import Tensor


class TextStep(WanTextEncoderStep):
    """`WanTextEncoderStep` that always encodes the negative prompt, too.

    The denoising loops of diffusers 0.42 require it, and its own step fails where the guider is off.
    """

    @staticmethod
    def encode_prompt(
        components: Any, *args: Any, prepare_unconditional_embeds: bool = True, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return WanTextEncoderStep.encode_prompt(components, *args, prepare_unconditional_embeds=True, **kwargs)
