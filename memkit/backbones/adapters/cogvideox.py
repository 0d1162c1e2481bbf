"""The adapter of `CogVideoXTransformer3DModel` (CogVideoX 1.0 and 1.5), which joins text and video in attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.joint import JointAdapter, unsupported_by
from memkit.backbones.base import KV_CACHE, TEXT, TOKEN_POSITIONS, VIDEO, Carrier, Table
from memkit.backbones.protocol import Call, Grid, Model
from memkit.backbones.rotary import checked_positions
from memkit.errors import InputError

_SAME_FREQUENCIES = 1e-2  # tables in bf16 differ by up to 4e-3, those with another base by about 1


class CogVideoXAdapter(JointAdapter):
    """Memory tokens get the norm and modulation of video tokens."""

    model_class: ClassVar[type[nn.Module]] = CogVideoXTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (CogVideoXAttnProcessor2_0, FusedCogVideoXAttnProcessor2_0)
    block_arguments: ClassVar[tuple[str, ...]] = ("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb")
    unsupported: ClassVar[Mapping[str, str]] = unsupported_by("CogVideoX")

    def why_not(self, model: Model, kind: str) -> str | None:
        """Also a KV cache or other positions, in models whose patch embedding adds positions."""
        config = model.config
        added = config.use_learned_positional_embeddings or not config.use_rotary_positional_embeddings
        if kind in (KV_CACHE, TOKEN_POSITIONS) and added:
            return "the patch embedding of this model adds positions, which are those of frames 0, 1, … in every call"
        return super().why_not(model, kind)

    def blocks(self, model: Model) -> tuple[Model, ...]:
        return tuple(model.transformer_blocks)

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        depth, down, across = self.sizes(model).patch_size

        def carry(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            named = self.arguments(args, kwargs)
            x, rotary = named["hidden_states"], named.get("image_rotary_emb")
            grid = Grid(-(-x.shape[1] // depth), x.shape[3] // down, x.shape[4] // across, rotary)
            tables = rotary
            if tables is None:  # no rotation, to which camera positions can still add theirs
                shape = (grid.frames * grid.tokens_per_frame, model.config.attention_head_dim)
                tables = (torch.ones(shape), torch.zeros(shape))
            carrier = self.carrier(tuple(table.to(x.device) for table in tables), own=rotary)
            return (), {**named, "image_rotary_emb": begin(grid, carrier)}

        return [model.register_forward_pre_hook(carry, with_kwargs=True)]

    def own_rotary(self, carrier: Carrier) -> Any:
        if carrier.own is None or carrier.cos is None or carrier.sin is None:
            return None
        return carrier.cos[0, :, 0], carrier.sin[0, :, 0]

    def modulate(self, block: Model, tokens: Tensor, temb: Tensor) -> Tensor:
        return block.norm1(tokens, tokens[:, :0], temb)[0]

    def rotary_at(self, model: Model, positions: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
        """The caller's tables for frames 0…n−1; at other positions, their rows and columns with the angles of time.

        Raises:
            InputError: the call has no rotary tables, or the frequencies of time are not those of the pipelines.
        """
        if grid.own is None:
            raise InputError("This call has no image_rotary_emb, and frames have no positions without; give it.")
        positions, size = checked_positions(positions), grid.own[0].shape[1] // 4  # time has a quarter of the head
        at: Any = torch.tensor([*range(grid.frames), *positions], dtype=torch.float32)
        tables = []
        for given, formula in zip(grid.own, get_1d_rotary_pos_embed(size, at, use_real=True), strict=True):
            given = given.unflatten(0, (grid.frames, -1))
            known, angles = formula.to(given).split([grid.frames, len(positions)])
            if (given[:, 0, :size] - known).abs().max() > _SAME_FREQUENCIES:
                raise InputError("image_rotary_emb is not of frames 0, 1, … as CogVideoX's pipelines compute it.")
            angles = angles[:, None].expand(-1, grid.tokens_per_frame, -1)
            frames = torch.cat([angles, given[:1, :, size:].expand(len(positions), -1, -1)], dim=-1)
            own = [i for i, position in enumerate(positions) if 0 <= position < grid.frames]
            frames[own] = given[[positions[i] for i in own]]
            tables.append(frames.flatten(0, 1))
        return self.tables((tables[0], tables[1]))

    def fused(self, attn: Model) -> bool:
        """As the stock processor says: ``unfuse_qkv_projections`` leaves the fused weights there."""
        return isinstance(getattr(attn.processor, "inner", attn.processor), FusedCogVideoXAttnProcessor2_0)

    def join(self, attn: Model, table: Table, call: Call) -> None:
        if call.mask is not None:
            raise InputError("An attention_mask in attention_kwargs would be ignored while memory is attached.")
        assert call.text is not None
        q, k, v = self.project(attn, call.text)
        table.q[TEXT], table.kv[TEXT] = q, (k, v)
        table.sees.update({VIDEO: (TEXT, VIDEO), TEXT: (TEXT, VIDEO)})

    def output(self, attn: Model, video: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        assert text is not None
        return attn.to_out[1](video), attn.to_out[1](self.project_out(attn, text))
