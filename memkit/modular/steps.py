"""Steps of diffusers 0.42 for Wan, each with what keeps it from working with some models or settings mended."""

from __future__ import annotations

from typing import Any

from diffusers.modular_pipelines.wan.before_denoise import WanPrepareLatentsStep
from diffusers.modular_pipelines.wan.encoders import WanTextEncoderStep
from torch import Tensor


class TextStep(WanTextEncoderStep):
    """`WanTextEncoderStep` that always encodes the negative prompt, too.

    The denoising loops require it, and the stock step fails where the guider is off.
    """

    @staticmethod
    def encode_prompt(
        components: Any, *args: Any, prepare_unconditional_embeds: bool = True, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return WanTextEncoderStep.encode_prompt(components, *args, prepare_unconditional_embeds=True, **kwargs)


class LatentsStep(WanPrepareLatentsStep):
    """`WanPrepareLatentsStep` that asks the VAE for its stride.

    The stock step counts the VAE's levels, which is half the stride where the VAE also patchifies (TI2V-5B, tiny-wan).
    """

    @staticmethod
    def prepare_latents(comp: Any, *args: Any, height: int, width: int, **kwargs: Any) -> Tensor:
        counted, stride = comp.vae_scale_factor_spatial, comp.vae.config.scale_factor_spatial
        size = {"height": height // stride * counted, "width": width // stride * counted}
        return WanPrepareLatentsStep.prepare_latents(comp, *args, **size, **kwargs)
