"""Self-attention in the blocks of a `QueryModule`: Q attends to C and itself; C provides keys and values only."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from memkit.attention import grouped_attention
from memkit.backbones.adapters.wan import WAN
from memkit.backbones.base import Table
from memkit.backbones.rotary import rotate
from memkit.injectors.attention_shares import frame_shares
from memkit.injectors.query_layers.chunk import Pass
from memkit.injectors.query_layers.injection import CONTEXT, CONTEXT_SHARES, QUERY


class Carried(NamedTuple):
    """The rotary argument of a block, which passes it to its self-attention unchanged."""

    rotary: tuple[Tensor, Tensor]
    cameras: Tensor | None
    layer: int
    forward_pass: Pass


class QueryModuleProcessor(WanAttnProcessor):
    """Self-attention of a block: Q attends to C and itself; in the pass of C, only keys and values are computed."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        carried: Carried = rotary_emb
        layer, current, hidden = carried.layer, carried.forward_pass, hidden_states
        if carried.cameras is not None:
            hidden = hidden + carried.cameras.type_as(hidden)
        k, v = WAN.project_kv(attn, hidden)
        k = rotate(k, *carried.rotary)
        if current.of_context:
            current.kept[layer] = (k, v)
            return torch.zeros_like(hidden)
        q = rotate(attn.norm_q(attn.to_q(hidden)).unflatten(2, (attn.heads, -1)), *carried.rotary)
        table = Table({QUERY: q}, {QUERY: (k, v)}, {QUERY: (QUERY,)})
        if current.context:
            table.kv[CONTEXT] = current.context[layer]
            table.sees[QUERY] = (QUERY, CONTEXT)
        if current.row is not None:
            current.row.record(CONTEXT_SHARES, layer, frame_shares(table, QUERY, CONTEXT, current.context_frames))
        out = grouped_attention(table.q, table.kv, table.sees, table.log_weight, self._attend)[QUERY]
        return attn.to_out[1](attn.to_out[0](out.type_as(q).flatten(2, 3)))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)
