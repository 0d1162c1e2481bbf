"""Tiny random models that attend to text and video jointly: CogVideoX and HunyuanVideo; see `tiny_backbones`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel, HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from tests.helpers.tiny_backbones import (
    LATENTS,
    SIDE,
    TEXT,
    TIMESTEP,
    Dense,
    TinyBackbone,
    seeded,
    seeded_model,
    turned,
)

MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
"""Which tokens of `TEXT` are real."""
NO_TIMESTEPS = dict.fromkeys(("frame_context", "teacher_forcing"), "per token")
REFUSED = {**NO_TIMESTEPS, "query_layers": "what text sees"}


class JointDense(Dense):
    """Attention over text and video together, which both see memory.

    With ``allowed``, there is one copy of the text per chunk of frames, which sees the tokens that its chunk sees.
    """

    @property
    def copies(self) -> int:
        return 1 if self.allowed is None else len(torch.unique(self.allowed, dim=0))

    def text_of(self, copies: int) -> Tensor:
        """Of each text token [B,L], the copy that it is of; −1 for padding."""
        return torch.arange(copies).repeat_interleave(MASK.shape[1]).where(MASK.repeat(1, copies) == 1, -1)

    def parts(self, attn: Any, x: Tensor, added: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, normed, and values [B,S,H,D]."""
        names = ("add_q_proj", "add_k_proj", "add_v_proj") if added else ("to_q", "to_k", "to_v")
        q, k, v = (getattr(attn, name)(x).unflatten(-1, (attn.heads, -1)) for name in names)
        norms = (attn.norm_added_q, attn.norm_added_k) if added else (attn.norm_q, attn.norm_k)
        return norms[0](q).double(), norms[1](k).double(), v.double()

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask=None,
        image_rotary_emb=None,
    ) -> tuple[Tensor, Tensor]:
        batch, length, size = *encoder_hidden_states.shape[:2], hidden_states.shape[1]
        q, k, v = self.parts(attn, hidden_states)
        if image_rotary_emb is not None:
            q, k = (turned(x, *(table[None, :, None] for table in image_rotary_emb)) for x in (q, k))
        memory = hidden_states[:, :0]
        if self.memory is not None:
            memory = self.backbone.modulated(self.block, self.arguments, self.memory.expand(batch, -1, -1))
        more = self.parts(attn, memory)
        text = self.parts(attn, encoder_hidden_states, added=attn.add_q_proj is not None)
        q, k, v = (torch.cat([text[0], q], 1), *(torch.cat([text[i], x, more[i]], 1) for i, x in ((1, k), (2, v))))
        allowed = torch.ones(size, size, dtype=torch.bool) if self.allowed is None else self.allowed
        rows, of_video = torch.unique(allowed, dim=0, return_inverse=True)
        rows, of_video = rows.flip(0), len(rows) - 1 - of_video
        of_text = self.text_of(self.copies)
        of_query = torch.cat([of_text, of_video.expand(batch, -1)], dim=1)
        sees_text = (of_query[:, :, None] == of_text[:, None]) & (of_text[:, None] >= 0)
        seen = F.pad(torch.cat([sees_text, rows[of_query]], dim=2), (0, memory.shape[1]), value=True)
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        weights = logits.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).float()
        return self.projected(attn, y[:, length:], y[:, :length])

    def projected(self, attn: Any, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        if attn.to_out is None:  # a single-stream block of HunyuanVideo
            return video, text
        return attn.to_out[0](video), attn.to_add_out(text)


def copies(attn: Any) -> int:
    """How many copies of the text the processor of an attention needs."""
    return getattr(attn.processor, "copies", 1)


# -- CogVideoX ---------------------------------------------------------------------------------------------------------

COG_SIZES = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 16,
    "time_embed_dim": 16,
    "text_embed_dim": TEXT.shape[-1],
    "num_layers": 3,
    "sample_width": SIDE,
    "sample_height": SIDE,
    "sample_frames": 13,
    "max_text_seq_length": TEXT.shape[1],
}


class CogDense(JointDense):
    def text_of(self, copies: int) -> Tensor:
        return torch.arange(copies).repeat_interleave(TEXT.shape[1]).expand(2, -1)

    def projected(self, attn: Any, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return attn.to_out[0](video), attn.to_out[0](text)


def cog_rotary(frames: int) -> tuple[Tensor, Tensor]:
    half = SIDE // 2
    return get_3d_rotary_pos_embed(16, ((0, 0), (half, half)), (half, half), frames)


def cog_call(model: Any, frames: slice = slice(None), **changed: Any) -> Tensor:
    x = LATENTS[:, :, frames].transpose(1, 2)
    named = {
        "hidden_states": x,
        "encoder_hidden_states": TEXT.repeat(1, copies(model.transformer_blocks[0].attn1), 1),
        "timestep": TIMESTEP,
        "image_rotary_emb": cog_rotary(x.shape[1]) if model.config.use_rotary_positional_embeddings else None,
    }
    return model(**{**named, **changed}, return_dict=False)[0]


def cog_modulated(block: Any, named: Mapping[str, Any], tokens: Tensor) -> Tensor:
    norm = block.norm1
    shift, scale = norm.linear(F.silu(named["temb"]))[:, None].chunk(6, dim=-1)[:2]
    normed = F.layer_norm(tokens, tokens.shape[-1:], norm.norm.weight, norm.norm.bias, norm.norm.eps)
    return normed * (1 + scale) + shift


COGVIDEOX = TinyBackbone(
    lambda: seeded_model(CogVideoXTransformer3DModel, **COG_SIZES, use_rotary_positional_embeddings=True),
    cog_call,
    cog_modulated,
    refused=REFUSED,
    frame_dim=1,
    joint=True,
    dense=CogDense,
)
COGVIDEOX_2B = TinyBackbone(  # without rotary positions
    lambda: seeded_model(CogVideoXTransformer3DModel, **COG_SIZES),
    cog_call,
    cog_modulated,
    refused={**REFUSED, "kv_cache": "patch embedding of this model adds positions"},
    frame_dim=1,
    joint=True,
    dense=CogDense,
)

# -- HunyuanVideo ------------------------------------------------------------------------------------------------------

HUNYUAN_SIZES = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "patch_size": 2,
    "text_embed_dim": TEXT.shape[-1],
    "rope_axes_dim": (8, 8, 8),
}
HUNYUAN_1_SIZES = {**HUNYUAN_SIZES, "num_single_layers": 2, "pooled_projection_dim": 8, "guidance_embeds": False}
HUNYUAN_15_SIZES = {**HUNYUAN_SIZES, "text_embed_2_dim": 12, "image_embed_dim": 10}


GLYPHS, GLYPH_MASK, IMAGE = seeded(2, 3, 12, seed=7), torch.tensor([[1, 1, 0], [1, 0, 0]]), seeded(2, 2, 10, seed=8)


class Hunyuan15Dense(JointDense):
    """Text tokens are in the order in which the model puts the image, the glyphs and the text, padding last."""

    def text_of(self, copies: int) -> Tensor:
        parts = (torch.ones(2, 2), GLYPH_MASK, MASK)
        labels = [
            torch.arange(copies).repeat_interleave(mask.shape[1]).where(mask.repeat(1, copies) == 1, -1)
            for mask in parts
        ]
        whole = torch.cat(labels, dim=1)
        order = torch.argsort((whole < 0).int(), dim=1, stable=True)
        return whole.gather(1, order)


def hunyuan_call(model: Any, frames: slice = slice(None), **changed: Any) -> Tensor:
    n = copies(model.transformer_blocks[0].attn)
    named = {
        "hidden_states": LATENTS[:, :, frames],
        "timestep": TIMESTEP,
        "encoder_hidden_states": TEXT.repeat(1, n, 1),
        "encoder_attention_mask": MASK.repeat(1, n),
        "pooled_projections": seeded(2, 8, seed=6),
    }
    return model(**{**named, **changed}, return_dict=False)[0]


def hunyuan_modulated(block: Any, named: Mapping[str, Any], tokens: Tensor) -> Tensor:
    norm = block.norm1 if "norm1" in block._modules else block.norm
    shift, scale = norm.linear(F.silu(named["temb"])).unflatten(1, (-1, 1, tokens.shape[-1])).unbind(1)[:2]
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


HUNYUAN = TinyBackbone(
    lambda: seeded_model(HunyuanVideoTransformer3DModel, **HUNYUAN_1_SIZES),
    hunyuan_call,
    hunyuan_modulated,
    refused=REFUSED,
    joint=True,
    dense=JointDense,
)
HUNYUAN_TOKEN_REPLACE = TinyBackbone(
    lambda: seeded_model(HunyuanVideoTransformer3DModel, **HUNYUAN_1_SIZES, image_condition_type="token_replace"),
    hunyuan_call,
    hunyuan_modulated,
    refused={**REFUSED, **dict.fromkeys(("kv_cache", "state_space"), "first latent frame of each call for the image")},
    joint=True,
    dense=JointDense,
)


def hunyuan15_call(model: Any, frames: slice = slice(None)) -> Tensor:
    n = copies(model.transformer_blocks[0].attn)
    more = {
        "encoder_hidden_states_2": GLYPHS.repeat(1, n, 1),
        "encoder_attention_mask_2": GLYPH_MASK.repeat(1, n),
        "image_embeds": IMAGE.repeat(1, n, 1),
    }
    named = {
        "hidden_states": LATENTS[:, :, frames],
        "timestep": TIMESTEP,
        "encoder_hidden_states": TEXT.repeat(1, n, 1),
        "encoder_attention_mask": MASK.repeat(1, n),
    }
    return model(**named, **more, return_dict=False)[0]


HUNYUAN_15 = TinyBackbone(
    lambda: seeded_model(HunyuanVideo15Transformer3DModel, **HUNYUAN_15_SIZES),
    hunyuan15_call,
    hunyuan_modulated,
    refused=REFUSED,
    joint=True,
    dense=Hunyuan15Dense,
)
