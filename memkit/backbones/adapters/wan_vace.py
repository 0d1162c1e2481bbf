"""The adapter of `WanVACETransformer3DModel`: Wan with a branch of blocks for control latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from diffusers import WanVACETransformer3DModel
from torch import nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.wan import WanAdapter
from memkit.backbones.base import FRAME_CONTEXT, QUERY_LAYERS, TEACHER_FORCING, Carrier
from memkit.backbones.protocol import Grid, Model

_TIMESTEPS = "it needs timesteps per token, and VACE takes one per sample"


class WanVACEAdapter(WanAdapter):
    """Memory joins the blocks of the video and not those of the control branch, which compute their hints as ever.

    This is our reading; DiT-Mem (arXiv 2511.19229) does not treat control branches. With a KV cache, the hints of a
    chunk come from the control of this chunk alone, at the chunk's positions.
    """

    model_class: ClassVar[type[nn.Module]] = WanVACETransformer3DModel
    unsupported: ClassVar[Mapping[str, str]] = {
        FRAME_CONTEXT: _TIMESTEPS,
        TEACHER_FORCING: _TIMESTEPS,
        QUERY_LAYERS: "they run on more frames than the video has, for which there are no control latents",
    }

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        hooks = [block.register_forward_pre_hook(_unpack) for block in model.vace_blocks]
        return [*super().watch(model, begin), *hooks]


def _unpack(_block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a block of the control branch plain rotary tables."""
    return tuple(arg.rotary if isinstance(arg, Carrier) else arg for arg in args)
