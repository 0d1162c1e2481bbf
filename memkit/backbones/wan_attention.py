"""Attachments in the self-attention of a stock `WanTransformer3DModel`: a processor, and a hook of each block.

The hook adds the block's modulation, which a processor never sees, to the `Carrier` in the rotary argument, which the
block hands on untouched. All else happens inside the self-attention, after whatever offloads the block's weights has
brought them, and through the block's own modules, so that LoRA and quantisation act on memory as on the video. Nothing
is stored between hook and processor: gradient checkpointing may run a block twice, and ``torch.compile`` sees one pure
function.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor

from memkit.attention import grouped_attention
from memkit.backbones.base import VIDEO, Carrier, Grouping, Groups, Injection, Part, Positioning, Table
from memkit.backbones.rotary import rotate
from memkit.errors import MemkitError

Block = Any
"""A WanTransformerBlock or its attention, of whose parts torch knows no types."""


def carry_modulation(block: Block, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook of a block with attachments: its modulation joins the carrier in the rotary argument.

    Raises:
        MemkitError: the processor was replaced while something is attached.
    """
    if type(block.attn1.processor) is not GroupedSelfAttention:
        raise MemkitError(
            "The attention processors of the transformer were replaced (set_attn_processor, set_processor) while "
            "memory is attached, which would lose the memory; detach it first, or set the processors before you attach."
        )
    hidden, text, temb, rotary = args
    carrier = rotary if isinstance(rotary, Carrier) else Carrier(*rotary, states={}, grad=torch.is_grad_enabled())
    return hidden, text, temb, carrier._replace(temb=temb)


def refuse_copy(what: object, *_: object) -> NoReturn:
    """Raise `MemkitError`: a copy of an attached model would share its memory, without anyone to detach it."""
    raise MemkitError(
        "A transformer cannot be copied or pickled while memory is attached to it; detach the memory first, or save "
        "its state_dict()."
    )


class GroupedSelfAttention:
    """Processor of a block's ``attn1`` while something is attached; no module, so a state dict never sees it."""

    __deepcopy__ = __reduce_ex__ = refuse_copy

    def __init__(self, inner: WanAttnProcessor, block: Block, parts: tuple[Part, ...]) -> None:
        self.inner = inner
        self.block = block
        self.injections = tuple(part for part in parts if isinstance(part, Injection))
        self.positioning = next((part for part in parts if isinstance(part, Positioning)), None)
        self.grouping = next((part for part in parts if isinstance(part, Grouping)), None)

    @property
    def _attention_backend(self) -> Any:
        return self.inner._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:  # diffusers' set_attention_backend writes here
        self.inner._attention_backend = backend

    @property
    def _parallel_config(self) -> Any:
        return self.inner._parallel_config

    @_parallel_config.setter
    def _parallel_config(self, config: Any) -> None:
        self.inner._parallel_config = config

    def __call__(
        self,
        attn: Block,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Carrier | None = None,
    ) -> Tensor:
        """The stock self-attention, over the table that the injections extended."""
        if not isinstance(rotary_emb, Carrier) or rotary_emb.temb is None:
            raise MemkitError(
                "A block's attention ran without the block's own hooks, so the attached memory would be lost. "
                "Call the block itself, or detach the memory."
            )
        carrier, temb = rotary_emb, rotary_emb.temb
        groups = None if self.grouping is None else self.grouping.split(carrier)
        position = None if self.positioning is None else self.positioning.position(hidden_states, carrier)
        prepared = [
            [
                each.prepare(self.block, hidden_states[:, span], _of_tokens(temb, span), carrier)
                for each in self.injections
            ]
            for span in ((slice(None),) if groups is None else groups.spans.values())
        ]
        idle = all(mine is None for row in prepared for mine in row)
        if idle and self.positioning is None and groups is None:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, carrier.rotary)
        q, k, v = _project(attn, hidden_states)
        if self.positioning is None:
            q, k = rotate(q, *carrier.rotary), rotate(k, *carrier.rotary)
        else:
            q, k, v = self.positioning.enter(q, k, v, carrier.rotary, position)
        if groups is None:
            y = self._extended(attn, Table(q={VIDEO: q}, kv={VIDEO: (k, v)}, sees={VIDEO: (VIDEO,)}), prepared[0])
        else:
            tables = _tables_of(groups, q, k, v)
            y = torch.cat([self._extended(attn, *one) for one in zip(tables, prepared, strict=True)], dim=1)
        y = y.type_as(q)
        if self.positioning is None:
            return attn.to_out[1](attn.to_out[0](y.flatten(2, 3)))
        return attn.to_out[1](self.positioning.leave(attn, y, position))

    def _extended(self, attn: Block, table: Table, prepared: list[Any]) -> Tensor:
        """The output [B,S,H,D] of the video's queries, over the table and what the injections add to it."""
        live = [(each, mine) for each, mine in zip(self.injections, prepared, strict=True) if mine is not None]
        names = [each.extend(table, attn, mine) for each, mine in live]
        out = grouped_attention(table.q, table.kv, table.sees, table.log_weight, self._attend)
        for (each, mine), name in zip(reversed(live), reversed(names), strict=True):
            each.finish(table, name, out, mine)
        return out[VIDEO]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)


def _tables_of(groups: Groups, q: Tensor, k: Tensor, v: Tensor) -> list[Table]:
    """A table for each group, in which its own tokens are the video, and the others keep their names."""
    keys = {name: (k[:, span], v[:, span]) for name, span in groups.spans.items()}
    tables = []
    for name, span in groups.spans.items():
        rest = tuple(other for other in groups.sees[name] if other != name)
        row = (VIDEO, *rest) if name in groups.sees[name] else rest
        kv = {VIDEO: keys[name], **{other: keys[other] for other in rest}}
        tables.append(Table(q={VIDEO: q[:, span]}, kv=kv, sees={VIDEO: row}))
    return tables


def _project(attn: Block, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if attn.fused_projections:
        q, k, v = attn.to_qkv(hidden).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(hidden), attn.to_k(hidden), attn.to_v(hidden)
    q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
    return q, k, v


def project_kv(attn: Block, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (normed, without position) and values [B,S,H,D] of ``hidden`` [B,S,D] by the attention's own modules.

    Fused projections compute the queries too: slicing their weight would leave out a LoRA on them, or a cast.
    """
    if attn.fused_projections:
        _, k, v = attn.to_qkv(hidden).chunk(3, dim=-1)
    else:
        k, v = attn.to_k(hidden), attn.to_v(hidden)
    k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_k(k), v))
    return k, v


def modulate(block: Block, tokens: Tensor, temb: Tensor) -> Tensor:
    """Extra tokens [B,M,D] normed and modulated as ``block`` does its own before self-attention.

    With per-token timesteps (``temb`` [B,S,6,D]; Wan2.2 TI2V) they take the modulation of the last token: conditioning
    frames, at t=0, come first, so the last one is always being denoised. This is our reading; the paper knows one
    timestep only. Call it inside the block's forward, where its weights are on their device.
    """
    if temb.ndim == 4:
        temb = temb[:, -1]
    shift, scale = (block.scale_shift_table + temb.float()).chunk(6, dim=1)[:2]
    return block.norm1(tokens.float()) * (1 + scale) + shift


def _of_tokens(temb: Tensor, span: slice) -> Tensor:
    """The modulation of some tokens: [B,S,6,D] has one per token, [B,6,D] one for all."""
    return temb[:, span] if temb.ndim == 4 else temb
