"""The adapter of `AnyFlowTransformer3DModel` (AnyFlow): Wan with two timesteps, as a flow map has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import AnyFlowTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_anyflow import AnyFlowAttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.wan import WanAdapter
from memkit.backbones.base import FRAME_CONTEXT, QUERY_LAYERS, TEACHER_FORCING, Carrier
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.rotary import checked_positions

_LATENTS = "it adds frames to latents [B,C,F,H,W], and AnyFlow takes [B,F,C,H,W]"


class AnyFlowAdapter(WanAdapter):
    """Rotary embeddings are complex numbers in double precision; the modulation is always one per token."""

    model_class: ClassVar[type[nn.Module]] = AnyFlowTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (AnyFlowAttnProcessor,)
    block_arguments: ClassVar[tuple[str, ...]] = (
        *WanAdapter.block_arguments,
        *("attention_mask", "kv_cache", "kv_cache_flag"),
    )
    unsupported: ClassVar[Mapping[str, str]] = {
        FRAME_CONTEXT: _LATENTS,
        TEACHER_FORCING: _LATENTS,
        QUERY_LAYERS: _LATENTS.replace("it adds", "they add"),
    }

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        def carry(_rope: nn.Module, _args: tuple, named: dict[str, Any], rotary: dict[str, Tensor]) -> Carrier:
            layout = named["layout_cfg"]
            return begin(
                Grid(layout["total_frames"], *layout["full_frame_shape"], named["device"]), self.carrier(rotary)
            )

        return [model.rope.register_forward_hook(carry, with_kwargs=True)]

    def tables(self, rotary: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The model's own are complex, [1,1,S,D/2], and the same for queries and keys."""
        return as_tables(rotary["key"])

    def own_rotary(self, carrier: Carrier) -> dict[str, Tensor]:
        return dict.fromkeys(("query", "key"), as_complex(*carrier.rotary))

    def rotary_at(self, model: Model, positions: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
        """By the model's own formula, which takes any positions; rows and columns are those of its frame 0."""
        rope, size, positions = model.rope, (grid.height, grid.width), checked_positions(positions)
        space = rope.forward(layout_cfg={"total_frames": 1, "full_frame_shape": size}, device=grid.own)["key"]
        channels = rope.attention_head_dim - 4 * (rope.attention_head_dim // 6)
        at: Any = torch.tensor(positions)
        time: Any = get_1d_rotary_pos_embed(channels, at, rope.theta, freqs_dtype=torch.float64)
        time = time.to(space)[:, None].expand(-1, grid.tokens_per_frame, -1)
        space = space[0, 0, :, channels // 2 :].expand(len(positions), -1, -1)
        return as_tables(torch.cat([time, space], dim=-1).flatten(0, 1)[None, None])

    def _normed(self, attn: Model, norm: nn.Module | None, x: Tensor) -> Tensor:
        return super()._normed(attn, norm, x).type_as(x)  # the norm's output may be in float32


def as_tables(rotary: Tensor) -> tuple[Tensor, Tensor]:
    """Complex numbers [1,1,S,D/2] as tables (cos, sin), each [1,S,1,D]."""
    pairs = rotary.transpose(1, 2).repeat_interleave(2, dim=-1)
    return pairs.real, pairs.imag


def as_complex(cos: Tensor, sin: Tensor) -> Tensor:
    """The inverse of `as_tables`."""
    return torch.complex(cos[..., ::2], sin[..., ::2]).transpose(1, 2)
