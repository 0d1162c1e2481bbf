"""The attention processor of a stock `WanTransformer3DModel` with attachments, and the hook that each block gets.

A processor does not receive the modulation of its block, so the hook adds it to the `Carrier` in the rotary argument,
which the block passes on unchanged. Everything else happens inside the self-attention, when offloaded weights are on
their device, and through the block's own modules, so that LoRA and quantisation also apply to memory. No state is kept
between hook and processor: gradient checkpointing may run a block twice, and ``torch.compile`` traces a pure function.
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
"""A WanTransformerBlock or its attention; torch declares no types for their submodules."""


def carry_modulation(block: Block, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward pre-hook of a block with attachments: adds its modulation to the carrier in the rotary argument.

    Raises:
        MemkitError: the block's processor was replaced while something is attached.
    """
    if type(block.attn1.processor) is not GroupedSelfAttention:
        raise MemkitError(
            "The attention processors of the transformer were replaced (set_attn_processor, set_processor) while "
            "memory is attached, so the memory would be ignored; detach it first, or set the processors before "
            "attaching."
        )
    hidden, text, temb, rotary = args
    carrier = rotary if isinstance(rotary, Carrier) else Carrier(*rotary, states={}, grad=torch.is_grad_enabled())
    return hidden, text, temb, carrier._replace(temb=temb)


def refuse_copy(what: object, *_: object) -> NoReturn:
    """Raise `MemkitError`: the copy of an attached model would keep the memory, which nothing could detach."""
    raise MemkitError(
        "A transformer cannot be copied or pickled while memory is attached to it; detach the memory first, or save "
        "its state_dict()."
    )


class GroupedSelfAttention:
    """Processor of a block's ``attn1`` while something is attached; not a module, so it adds nothing to state dicts."""

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
        """The stock self-attention, extended by the injections, with the positions and visibility of the parts."""
        if not isinstance(rotary_emb, Carrier) or rotary_emb.temb is None:
            raise MemkitError(
                "The attention of a block ran without the hooks of the block, so the attached memory would be ignored. "
                "Call the block itself, or detach the memory."
            )
        carrier, temb = rotary_emb, rotary_emb.temb
        groups = None if self.grouping is None else self.grouping.split(carrier)
        position = None if self.positioning is None else self.positioning.position(hidden_states, carrier)
        prepared = [
            [
                injection.prepare(self.block, hidden_states[:, span], _modulation_of(temb, span), carrier)
                for injection in self.injections
            ]
            for span in ((slice(None),) if groups is None else groups.spans.values())
        ]
        unchanged = all(value is None for row in prepared for value in row)
        if unchanged and self.positioning is None and groups is None:
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
            y = torch.cat([self._extended(attn, *call) for call in zip(tables, prepared, strict=True)], dim=1)
        y = y.type_as(q)
        if self.positioning is None:
            return attn.to_out[1](attn.to_out[0](y.flatten(2, 3)))
        return attn.to_out[1](self.positioning.leave(attn, y, position))

    def _extended(self, attn: Block, table: Table, prepared: list[Any]) -> Tensor:
        """The attention output [B,S,H,D] of the video's queries, over the table extended by the injections."""
        active = [pair for pair in zip(self.injections, prepared, strict=True) if pair[1] is not None]
        names = [injection.extend(table, attn, value) for injection, value in active]
        out = grouped_attention(table.q, table.kv, table.sees, table.log_weight, self._attend)
        for (injection, value), name in zip(reversed(active), reversed(names), strict=True):
            injection.finish(table, name, out, value)
        return out[VIDEO]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend)


def _tables_of(groups: Groups, q: Tensor, k: Tensor, v: Tensor) -> list[Table]:
    """One table per group, in which the tokens of that group are the video and the other groups keep their names."""
    keys = {name: (k[:, span], v[:, span]) for name, span in groups.spans.items()}
    tables = []
    for name, span in groups.spans.items():
        others = tuple(other for other in groups.sees[name] if other != name)
        row = (VIDEO, *others) if name in groups.sees[name] else others
        kv = {VIDEO: keys[name], **{other: keys[other] for other in others}}
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
    """Keys (normalised, without position) and values [B,S,H,D] of ``hidden`` [B,S,D] from the attention's own modules.

    Fused projections compute the queries too: slicing their weight would bypass a LoRA or a cast on them.
    """
    if attn.fused_projections:
        _, k, v = attn.to_qkv(hidden).chunk(3, dim=-1)
    else:
        k, v = attn.to_k(hidden), attn.to_v(hidden)
    k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_k(k), v))
    return k, v


def modulate(block: Block, tokens: Tensor, temb: Tensor) -> Tensor:
    """Normalise and modulate extra tokens [B,M,D] as ``block`` does with its own tokens before self-attention.

    With per-token timesteps (``temb`` [B,S,6,D]; Wan2.2 TI2V) they get the modulation of the last token: conditioning
    frames, at t = 0, come first, so the last token is always being denoised. This is our reading; DiT-Mem
    (arXiv 2511.19229) has one timestep for all tokens. Call it inside the block's forward, where the weights of the
    block are on their device.
    """
    if temb.ndim == 4:
        temb = temb[:, -1]
    shift, scale = (block.scale_shift_table + temb.float()).chunk(6, dim=1)[:2]
    return block.norm1(tokens.float()) * (1 + scale) + shift


def _modulation_of(temb: Tensor, span: slice) -> Tensor:
    """The modulation of the tokens in ``span``: [B,S,6,D] has one per token, [B,6,D] one for all."""
    return temb[:, span] if temb.ndim == 4 else temb
