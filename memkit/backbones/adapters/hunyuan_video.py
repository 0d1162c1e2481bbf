"""The adapter of `HunyuanVideoTransformer3DModel`, which joins text and video in attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import HunyuanVideoTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoAttnProcessor2_0
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.joint import JointAdapter, unsupported_by
from memkit.backbones.base import KV_CACHE, RECURRENT, TEXT, VIDEO, Carrier, Table
from memkit.backbones.protocol import Call, Grid, Model
from memkit.backbones.rotary import checked_positions


class HunyuanVideoAdapter(JointAdapter):
    """The layers are the dual-stream blocks, in which text has projections of its own, then the single-stream blocks.

    Memory tokens get the norm and modulation of video tokens that are being denoised. Padding of the text stays masked.
    Single-stream blocks project the attention's output together with that of their MLP; what `PMRoPE` adds to the
    output is added before.
    """

    model_class: ClassVar[type[nn.Module]] = HunyuanVideoTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (HunyuanVideoAttnProcessor2_0,)
    block_arguments: ClassVar[tuple[str, ...]] = (
        *("hidden_states", "encoder_hidden_states", "temb", "attention_mask", "image_rotary_emb"),
    )
    unsupported: ClassVar[Mapping[str, str]] = unsupported_by("HunyuanVideo")

    def why_not(self, model: Model, kind: str) -> str | None:
        """Also what continues earlier calls, in image-to-video models that replace the tokens of the first frame."""
        if kind in (KV_CACHE, RECURRENT) and model.config.get("image_condition_type") == "token_replace":
            return "the model takes the first latent frame of each call for the image, so no call can continue another"
        return super().why_not(model, kind)

    def blocks(self, model: Model) -> tuple[Model, ...]:
        return (*model.transformer_blocks, *getattr(model, "single_transformer_blocks", ()))

    def attention(self, block: Model) -> Model:
        return block.attn

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        depth, down, across = self.sizes(model).patch_size

        def carry(_rope: nn.Module, args: tuple[Tensor], tables: tuple[Tensor, Tensor]) -> Carrier:
            frames, height, width = args[0].shape[2:]
            grid = Grid(frames // depth, height // down, width // across, args[0].device)
            return begin(grid, self.carrier(tables))

        return [model.rope.register_forward_hook(carry)]

    def own_rotary(self, carrier: Carrier) -> tuple[Tensor, Tensor]:
        cos, sin = carrier.rotary
        return cos[0, :, 0], sin[0, :, 0]

    def modulate(self, block: Model, tokens: Tensor, temb: Tensor) -> Tensor:
        norm = block.norm1 if hasattr(block, "norm1") else block.norm
        shift, scale = norm.linear(norm.silu(temb)).split(tokens.shape[-1], dim=1)[:2]
        return norm.norm(tokens) * (1 + scale[:, None]) + shift[:, None]

    def rotary_at(self, model: Model, positions: Sequence[int], grid: Grid) -> tuple[Tensor, Tensor]:
        """By the model's own formula, which takes any positions."""
        axes = (checked_positions(positions), range(grid.height), range(grid.width))
        numbers = [torch.tensor([*axis], dtype=torch.float32, device=grid.own) for axis in axes]
        cells: Any = torch.meshgrid(*numbers, indexing="ij")
        tables = [
            get_1d_rotary_pos_embed(size, cell.reshape(-1), model.rope.theta, use_real=True)
            for size, cell in zip(model.rope.rope_dim, cells, strict=True)
        ]
        cos, sin = (torch.cat(parts, dim=1) for parts in zip(*tables, strict=True))
        return self.tables((cos, sin))

    def fused(self, attn: Model) -> bool:
        """Never: the stock processor reads the separate projections even after ``fuse_qkv_projections``."""
        return False

    def join(self, attn: Model, table: Table, call: Call) -> None:
        text: Any = call.text
        if attn.add_q_proj is None:
            table.q[TEXT], *kv = self.project(attn, text)
        else:
            q, k, v = attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text)
            table.q[TEXT] = self._normed(attn, attn.norm_added_q, q)
            kv = self._normed(attn, attn.norm_added_k, k), v.unflatten(2, (attn.heads, -1))
        table.kv[TEXT] = (kv[0], kv[1])
        table.sees.update({VIDEO: (VIDEO, TEXT), TEXT: (VIDEO, TEXT)})
        real = call.mask.flatten(1)[:, -text.shape[1] :].bool()  # [B,1,1,S+L], in HunyuanVideo 1.5 [B,L]
        table.log_weight[TEXT] = torch.zeros_like(real, dtype=text.dtype).masked_fill(~real, -torch.inf)

    def project_out(self, attn: Model, y: Tensor) -> Tensor:
        return y.flatten(2, 3) if attn.to_out is None else attn.to_out[0](y.flatten(2, 3))

    def output(self, attn: Model, video: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        assert text is not None
        if attn.to_out is None:
            return video, text.flatten(2, 3)
        return attn.to_out[1](video), attn.to_add_out(text.flatten(2, 3))
