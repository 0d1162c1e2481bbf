"""Conditioning frames: the first latents of a video are given, and the model generates the rest.

As in Wan2.2 TI2V, conditioning latents stay clean in the sequence and their tokens carry timestep 0; one frame is
image-to-video, several are video-to-video. The model must have been trained for it (Wan2.2-TI2V-5B, tiny-wan): others
accept one timestep per token, but never saw two different ones in a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.adapters.wan import WAN
from memkit.checks import check_finite, check_floats
from memkit.errors import InputError

LATENTS = "[B, C, F, H, W]"


@contextmanager
def conditioning_frames(
    latents: Float[Tensor, "rows channels conditioning height width"], *transformers: WanTransformer3DModel
) -> Iterator[None]:
    """Inside, every call of the transformers sees ``latents`` (normalised) as its first frames, at timestep 0.

    ``latents`` has one row per sample, or one for all. The prediction for those frames has no meaning: a sampler writes
    the conditioning latents back after each step. Afterwards the transformers are what they were.

    Raises `InputError` where latents are not finite; and, from the call, where rows, channels or sizes do not fit, or
    no frame is left to generate.
    """
    check_finite("Conditioning latents", latents, LATENTS)

    def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = WAN.arguments(args, kwargs)
        x, t = named["hidden_states"], named["timestep"]
        given = {
            "hidden_states": write_conditioning_frames(x, latents),
            "timestep": _zero_timesteps(module, x, t, latents.shape[2]),
        }
        return (), {**named, **given}

    with ExitStack() as stack:
        for transformer in transformers:
            # before all other hooks: these frames must not replace those that an injector adds to the call
            hook = transformer.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
            stack.callback(hook.remove)
        yield


def write_conditioning_frames(
    x: Float[Tensor, "batch channels frames height width"], latents: Float[Tensor, "rows channels2 conditioning h w"]
) -> Float[Tensor, "batch channels frames height width"]:
    """``x`` with its first frames replaced by ``latents``.

    Raises `InputError` where rows, channels or sizes do not fit, or no frame is left to generate.
    """
    check_floats("The video", x, LATENTS)
    check_floats("Conditioning latents", latents, LATENTS)
    count, frames = latents.shape[2], x.shape[2]
    if latents.shape[0] not in (1, x.shape[0]) or latents.shape[1] != x.shape[1] or latents.shape[3:] != x.shape[3:]:
        raise InputError(
            f"Conditioning latents {list(latents.shape)} do not fit a video of {list(x.shape)}; "
            "give one row, or one per sample, of the same channels and size."
        )
    if not 0 < count < frames:
        raise InputError(
            f"{count} of {frames} latent frames are conditioning frames; give at least one and leave at least one."
        )
    return torch.cat([latents.to(x).expand(x.shape[0], -1, -1, -1, -1), x[:, :, count:]], dim=2)


def _zero_timesteps(module: Any, x: Tensor, timestep: Tensor, count: int) -> Tensor:
    """Timesteps [B, S], one per token, with 0 for those of the first ``count`` frames."""
    depth, height, width = module.config.patch_size
    if count % depth:
        raise InputError(f"This model patches {depth} latent frames together; give a multiple of it, not {count}.")
    tokens_per_frame = (x.shape[3] // height) * (x.shape[4] // width)
    tokens = x.shape[2] // depth * tokens_per_frame
    if timestep.ndim == 1:
        timestep = timestep.expand(x.shape[0])[:, None]
    timestep = timestep.expand(x.shape[0], tokens).clone()
    timestep[:, : count // depth * tokens_per_frame] = 0
    return timestep
