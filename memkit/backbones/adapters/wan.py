"""The adapter of `WanTransformer3DModel` (Wan2.1 and Wan2.2), and what its relatives share with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.base import Carrier
from memkit.backbones.protocol import BackboneAdapter, Grid, Model
from memkit.backbones.rotary import rotary_at


class WanAdapter(BackboneAdapter):
    """The model passes the output of ``rope`` to each block, and the block passes it to its self-attention."""

    model_class: ClassVar[type[nn.Module]] = WanTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (WanAttnProcessor,)
    unsupported: ClassVar[Mapping[str, str]] = {}

    def blocks(self, model: Model) -> tuple[Model, ...]:
        return tuple(model.blocks)

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        depth, down, across = self.sizes(model).patch_size

        def carry(_rope: nn.Module, args: tuple[Tensor], tables: tuple[Tensor, Tensor]) -> Carrier:
            frames, height, width = args[0].shape[2:]
            return begin(Grid(frames // depth, height // down, width // across), self.carrier(tables))

        return [model.rope.register_forward_hook(carry)]

    def timesteps(self, timestep: Tensor, batch: int, grid: Grid) -> Tensor:
        """One per token (Wan2.2 TI2V)."""
        if timestep.ndim == 2 and timestep.shape[1] == grid.frames:
            timestep = timestep.repeat_interleave(grid.tokens_per_frame, dim=1)
        timestep = timestep[:, None] if timestep.ndim == 1 else timestep
        return timestep.expand(batch, grid.frames * grid.tokens_per_frame)

    def with_timesteps(self, named: dict[str, Any], timestep: Tensor) -> dict[str, Any]:
        return {**named, "timestep": timestep}

    def modulate(self, block: Model, tokens: Tensor, temb: Tensor) -> Tensor:
        """As of the block's own tokens, by its ``norm1`` and ``scale_shift_table``.

        With per-token timesteps (``temb`` [B,S,6,D]; Wan2.2 TI2V) they get the modulation of the last token:
        conditioning frames, at t = 0, come first, so the last token is always being denoised. This is our reading;
        DiT-Mem (arXiv 2511.19229) has one timestep for all tokens.
        """
        if temb.ndim == 4:
            temb = temb[:, -1]
        shift, scale = (block.scale_shift_table + temb.float()).chunk(6, dim=1)[:2]
        return block.norm1(tokens.float()) * (1 + scale) + shift

    def modulation_of(self, temb: Tensor, span: slice) -> Tensor:
        """Of [B,S,6,D], which has one per token; [B,6,D] is one for all."""
        return temb[:, span] if temb.ndim == 4 else temb

    def rotary_at(self, model: Model, positions: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
        return rotary_at(model.rope, positions, grid.height, grid.width)


WAN = WanAdapter()
