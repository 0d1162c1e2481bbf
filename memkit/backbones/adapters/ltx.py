"""The adapter of `LTXVideoTransformer3DModel` (LTX-Video), whose input is already a sequence of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoAttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.base import FRAME_CONTEXT, QUERY_LAYERS, TEACHER_FORCING, Carrier
from memkit.backbones.protocol import BackboneAdapter, Grid, Model, Tables
from memkit.backbones.rotary import checked_positions
from memkit.errors import MemkitError

_TOKENS = "it adds frames to latents [B,C,F,H,W], and the input of LTX is a sequence of tokens"


class LTXVideoAdapter(BackboneAdapter):
    """Memory tokens get the block's RMS norm and modulation, which is how we read "like the block's own tokens".

    With timesteps per token (image-to-video, where conditioning tokens are at t = 0 and come first), they get the
    modulation of the last token, which is always being denoised.

    A call that gives ``video_coords`` instead of ``num_frames``, ``height`` and ``width``, as `LTXConditionPipeline`
    does, does not tell its frames: memory tokens work with it, and what needs positions of frames raises an error.
    """

    model_class: ClassVar[type[nn.Module]] = LTXVideoTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (LTXVideoAttnProcessor,)
    block_arguments: ClassVar[tuple[str, ...]] = (
        *("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb", "encoder_attention_mask"),
    )
    rotary_argument: ClassVar[str] = "image_rotary_emb"
    unsupported: ClassVar[Mapping[str, str]] = {
        FRAME_CONTEXT: _TOKENS,
        QUERY_LAYERS: _TOKENS.replace("it adds", "they add"),
        TEACHER_FORCING: _TOKENS,
    }

    def blocks(self, model: Model) -> tuple[Model, ...]:
        return tuple(model.transformer_blocks)

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        heads = self.sizes(model).heads

        def carry(_rope: nn.Module, args: tuple[Any, ...], tables: tuple[Tensor, Tensor]) -> Carrier:
            tokens, frames, height, width, scale, coords = args
            grid = None
            if coords is None and frames is not None:
                grid = Grid(frames, height, width, (tokens.device, scale))
            return begin(grid, self.carrier(tuple(table.unflatten(-1, (heads, -1)) for table in tables)))

        return [model.rope.register_forward_hook(carry)]

    def tables(self, rotary: Any) -> Tables:
        """The model's own are [B,S,heads·D], with other angles in each head."""
        if rotary[0].ndim != 4:
            raise MemkitError("An LTX block ran outside its transformer; call the transformer, or detach the memory.")
        return rotary

    def own_rotary(self, carrier: Carrier) -> Any:
        return tuple(table.flatten(2) for table in carrier.rotary)

    def modulate(self, block: Model, tokens: Tensor, temb: Tensor) -> Tensor:
        """``temb`` is [B,1,6·D], or [B,S,6·D] with one timestep per token."""
        values = block.scale_shift_table[None, None] + temb[:, -1:].unflatten(-1, block.scale_shift_table.shape)
        shift, scale = values.unbind(2)[:2]
        return block.norm1(tokens) * (1 + scale) + shift

    def modulation_of(self, temb: Tensor, span: slice) -> Tensor:
        return temb if temb.shape[1] == 1 else temb[:, span]

    def fused(self, attn: Model) -> bool:
        """Never: the stock processor reads the separate projections even after ``fuse_qkv_projections``."""
        return False

    def rotary_at(self, model: Model, positions: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
        """By the model's own formula, which knows frames, rows and columns as coordinates of any value."""
        rope, (device, scale) = model.rope, grid.own
        axes = (torch.tensor(checked_positions(positions)), torch.arange(grid.height), torch.arange(grid.width))
        cells = torch.meshgrid(*(axis.to(device, torch.float32) for axis in axes), indexing="ij")
        bases = (rope.base_num_frames, rope.base_height, rope.base_width)  # the model divides coordinates by them
        patch = (rope.patch_size_t, rope.patch_size, rope.patch_size)
        factors = [(base, 1) for base in bases] if scale is None else list(zip(scale, patch, strict=True))
        coords = [cell * one * two for cell, (one, two) in zip(cells, factors, strict=True)]
        video = torch.stack([coord.flatten() for coord in coords])[None]
        cos, sin = rope.forward(torch.empty(1, device=device), video_coords=video)
        heads = self.sizes(model).heads
        return cos.unflatten(-1, (heads, -1)), sin.unflatten(-1, (heads, -1))
