"""Tiny random AnyFlow models, plain and causal (FAR); see `tiny_backbones`."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AnyFlowFARTransformer3DModel, AnyFlowTransformer3DModel
from torch import Tensor

from tests.helpers.random_wan import SMALL
from tests.helpers.tiny_backbones import (
    FRAMES,
    LATENTS,
    TEXT,
    TIMESTEP,
    Dense,
    TinyBackbone,
    attended,
    seeded_model,
    wan_modulated,
)

PARTITION = (1, 1, 1, 1)
"""The chunks of AnyFlow-FAR: each frame of `LATENTS`. The first two have patches of 4×4, the others of 2×2."""


def modulated(block: Any, named: Any, tokens: Tensor) -> Tensor:
    return wan_modulated(block, {"temb": named["temb"][:, -1]}, tokens)


def call(model: Any, frames: slice = slice(None), **more: Any) -> Tensor:
    x = LATENTS[:, :, frames].transpose(1, 2)
    t = TIMESTEP[:, None].expand(-1, x.shape[1])
    return model(x, t, t / 2, TEXT, return_dict=False, **more)[0]


class AnyFlowDense(Dense):
    """As `Dense`, with rotary embeddings in complex numbers."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, text: Any = None, attention_mask: Any = None, rotary_emb: Any = None
    ) -> Tensor:
        freqs = rotary_emb["query"].transpose(1, 2).repeat_interleave(2, dim=-1)
        return super().__call__(attn, hidden_states, None, None, (freqs.real, freqs.imag))


class FARDense(AnyFlowDense):
    """Without its cache: a token sees those of its chunk and of earlier ones."""

    def __init__(self, backbone: TinyBackbone, memory: Tensor | None, allowed: Tensor | None) -> None:
        chunk = torch.tensor([0, 1, 2, 2, 2, 2, 3, 3, 3, 3])
        super().__init__(backbone, memory, chunk[:, None] >= chunk)


class CachedDense(Dense):
    """With its cache: keys are cached before their rotation, and attention is over the padding too."""

    def __call__(  # type: ignore[override]
        self, attn: Any, hidden_states: Tensor, attention_mask=None, rotary_emb=None, kv_cache=None, kv_cache_flag=None
    ) -> Tensor:
        flag = kv_cache_flag
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        allowed = None
        if flag["is_cache_step"]:
            far = flag["num_compressed_tokens"]
            for i, x in enumerate((k, v)):
                kv_cache["compressed_cache"][i, :, :, :far] = x[:, :, :far]
                kv_cache["full_cache"][i, :, :, : flag["num_full_tokens"]] = x[:, :, far:]
            chunk = torch.cat([torch.arange(far), far + torch.arange(flag["num_full_tokens"]) // 4])
            allowed = chunk[:, None] >= chunk
        else:
            far, near = flag["num_cached_compressed_tokens"], flag["num_cached_full_tokens"]
            k, v = (
                torch.cat([kv_cache["compressed_cache"][i][:, :, :far], kv_cache["full_cache"][i][:, :, :near], x], 2)
                for i, x in enumerate((k, v))
            )
        q, k = (self.turned(x.double(), rotary_emb[name]) for x, name in ((q, "query"), (k, "key")))
        q, k, v = (x.transpose(1, 2).double() for x in (q, k, v))
        if allowed is None:
            zeros = k.new_zeros(len(k), -q.shape[1] % 128, *k.shape[2:])
            k, v = torch.cat([k, zeros], 1), torch.cat([v, zeros], 1)
        if self.memory is not None:
            tokens = modulated(self.block, self.arguments, self.memory.expand(len(q), -1, -1))
            more = (attn.norm_k(attn.to_k(tokens)), attn.to_v(tokens))
            k, v = (
                torch.cat([x, y.unflatten(-1, (attn.heads, -1)).double()], 1) for x, y in zip((k, v), more, strict=True)
            )
        return attn.to_out[0](attended(q, k, v, allowed).flatten(2).float())

    @staticmethod
    def turned(x: Tensor, freqs: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * freqs).flatten(-2)


ANYFLOW = TinyBackbone(
    lambda: seeded_model(AnyFlowTransformer3DModel, **SMALL),
    call,
    modulated,
    refused=dict.fromkeys(("frame_context", "teacher_forcing", "query_layers"), r"takes \[B,F,C,H,W\]"),
    frame_dim=1,
    dense=AnyFlowDense,
)
ANYFLOW_FAR = TinyBackbone(
    lambda: seeded_model(AnyFlowFARTransformer3DModel, **SMALL, full_chunk_limit=2, chunk_partition=PARTITION),
    lambda model: call(model, chunk_partition=list(PARTITION)),
    modulated,
    refused={
        "kv_cache": "a cache of its own",
        "state_space": "stand for several places",
        "teacher_forcing": "a clean stream of its own",
        "pm_rope": "larger patches",
        "prope": "larger patches",
        **dict.fromkeys(("frame_context", "query_layers"), r"takes \[B,F,C,H,W\]"),
    },
    frame_dim=1,
    num_frames=FRAMES,
    dense=FARDense,
    exact=False,
)
