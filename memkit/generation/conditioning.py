"""Known frames: the first latents of a video are given, and the model makes the rest.

As in Wan2.2 TI2V, known latents stay clean in the sequence and their tokens carry timestep 0; one frame is
image-to-video, several are video-to-video. The model must have been trained so (Wan2.2-TI2V-5B, tiny-wan): others
take any timestep a token, but were never shown two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.wan_call import call_arguments
from memkit.errors import InputError


@contextmanager
def conditioning_frames(
    latents: Float[Tensor, "rows channels known height width"], *transformers: WanTransformer3DModel
) -> Iterator[None]:
    """Inside, every call of the transformers sees ``latents`` (normalised) as its first frames, at timestep 0.

    ``latents`` has one row a sample, or one for all. What the call gives for those frames means nothing: whoever
    integrates it writes the known latents back at the end. Afterwards the transformers are what they were.

    Raises `InputError`, from the call, where rows, channels or sizes do not fit, or no frame is left to make.
    """

    def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        named = call_arguments(args, kwargs)
        x, t = named["hidden_states"], named["timestep"]
        given = {
            "hidden_states": write_conditioning_frames(x, latents),
            "timestep": _known_at_zero(module, x, t, latents.shape[2]),
        }
        return (), {**named, **given}

    with ExitStack() as stack:
        for transformer in transformers:
            # first of all hooks: an injector that adds frames to the call must not find its own in their place
            hook = transformer.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
            stack.callback(hook.remove)
        yield


def write_conditioning_frames(
    x: Float[Tensor, "batch channels frames height width"], latents: Float[Tensor, "rows channels2 known h w"]
) -> Float[Tensor, "batch channels frames height width"]:
    """``x`` with its first frames replaced."""
    known, frames = latents.shape[2], x.shape[2]
    if latents.shape[0] not in (1, x.shape[0]) or latents.shape[1] != x.shape[1] or latents.shape[3:] != x.shape[3:]:
        raise InputError(
            f"Known latents {list(latents.shape)} do not fit a video of {list(x.shape)}; give one row or one a sample, "
            "of the same channels and size."
        )
    if not 0 < known < frames:
        raise InputError(f"{known} of {frames} latent frames are known; give at least one and leave at least one.")
    return torch.cat([latents.to(x).expand(x.shape[0], -1, -1, -1, -1), x[:, :, known:]], dim=2)


def _known_at_zero(module: Any, x: Tensor, timestep: Tensor, known: int) -> Tensor:
    """Timesteps [B, S], one a token, with 0 on those of the first ``known`` frames."""
    depth, height, width = module.config.patch_size
    if known % depth:
        raise InputError(f"This model patches {depth} latent frames together; give a multiple of it, not {known}.")
    tokens_per_frame = (x.shape[3] // height) * (x.shape[4] // width)
    tokens = x.shape[2] // depth * tokens_per_frame
    if timestep.ndim == 1:
        timestep = timestep.expand(x.shape[0])[:, None]
    timestep = timestep.expand(x.shape[0], tokens).clone()
    timestep[:, : known // depth * tokens_per_frame] = 0
    return timestep
