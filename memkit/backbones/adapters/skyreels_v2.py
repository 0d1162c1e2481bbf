"""The adapter of `SkyReelsV2Transformer3DModel`: Wan trained with diffusion forcing, a noise level per frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from diffusers import SkyReelsV2Transformer3DModel
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2AttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.wan import WanAdapter
from memkit.backbones.base import CAMERA_POSITIONS, FRAME_CONTEXT, MEMORY_TOKENS, Carrier, Groups
from memkit.backbones.protocol import Call, Grid, Model
from memkit.errors import MemkitError


class SkyReelsV2Adapter(WanAdapter):
    """Timesteps are per frame, with ``enable_diffusion_forcing``; attention may be causal over blocks of frames."""

    model_class: ClassVar[type[nn.Module]] = SkyReelsV2Transformer3DModel
    processors: ClassVar[tuple[type, ...]] = (SkyReelsV2AttnProcessor,)
    block_arguments: ClassVar[tuple[str, ...]] = (*WanAdapter.block_arguments, "attention_mask")
    unsupported: ClassVar[Mapping[str, str]] = {
        FRAME_CONTEXT: "it needs timesteps per token, and SkyReels-V2 takes one per frame of the video",
    }

    def why_not(self, model: Model, kind: str) -> str | None:
        """Also what changes the visibility of frames, while the model is causal over blocks of frames by itself."""
        if model.config.num_frame_per_block > 1 and kind not in (MEMORY_TOKENS, CAMERA_POSITIONS):
            return (
                "the model is causal over blocks of frames by itself (a causal_block_size above 1), and both would set "
                "which frames are visible to which; call its _set_ar_attention(1), or pipelines with "
                "causal_block_size=1"
            )
        return super().why_not(model, kind)

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        def begin_with_blocks(grid: Grid | None, carrier: Carrier) -> Carrier:
            frames = model.config.num_frame_per_block
            if grid is None or frames <= 1:
                return begin(grid, carrier)
            count, tokens = grid.frames // frames, frames * grid.tokens_per_frame
            spans = {f"block {i}": slice(i * tokens, (i + 1) * tokens) for i in range(count)}
            sees = {name: tuple(spans)[: i + 1] for i, name in enumerate(spans)}
            return begin(grid, carrier._replace(own=Groups(spans, sees)))

        return super().watch(model, begin_with_blocks)

    def groups(self, call: Call) -> Groups | None:
        """The blocks of frames of a causal model, each of which sees itself and the earlier ones."""
        if call.mask is not None and call.carrier.own is None:
            raise MemkitError("A causal block ran outside its transformer; call the transformer, or detach the memory.")
        return call.carrier.own

    def timesteps(self, timestep: Tensor, batch: int, grid: Grid) -> Tensor:
        """One per frame."""
        timestep = timestep[:, None] if timestep.ndim == 1 else timestep
        return timestep.expand(batch, grid.frames)

    def with_timesteps(self, named: dict[str, Any], timestep: Tensor) -> dict[str, Any]:
        return {**named, "timestep": timestep, "enable_diffusion_forcing": timestep.ndim == 2}

    def modulate(self, block: Model, tokens: Tensor, temb: Tensor) -> Tensor:
        """As for Wan; with timesteps per frame (``temb`` [B,6,S,D]), with the modulation of the last token."""
        return super().modulate(block, tokens, temb[:, :, -1] if temb.ndim == 4 else temb)

    def modulation_of(self, temb: Tensor, span: slice) -> Tensor:
        """Of [B,6,S,D], which has one per token; [B,6,D] is one for all."""
        return temb[:, :, span] if temb.ndim == 4 else temb
