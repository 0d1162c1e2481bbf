"""`SelfAttentionConcat`: memory tokens join the keys and values of every self-attention (DiT-Mem, arXiv 2511.19229).

In each block, the memory tokens are normalised and modulated like the block's own tokens at the current timestep, and
projected to keys and values by the block's own weights. They are keys and values only, without positions. (The release
also computes their queries and outputs and discards them: 2 % of the cost of a block at 480p, half of it at small
sizes.)

The paper has Wan; what this means for another model is in its adapter (``memkit/backbones/adapters/``), in `modulate`.
Where a model attends to text and video jointly, memory tokens are treated as video, which both see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.attention import attention_share
from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.attached import Attached
from memkit.backbones.base import MEMORY_TOKENS, TEXT, VIDEO, Carrier, Table
from memkit.backbones.protocol import BackboneAdapter, Grid, Model
from memkit.backbones.refusals import refuse_cache
from memkit.backbones.samples import several_videos
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import shown
from memkit.display import described
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder, Row
from memkit.memory import Memory

SHARES = "memory"
"""Series of an `AttentionRecorder`: the share of the video's attention on memory tokens, per sample."""


class SelfAttentionConcat:
    """Extends every self-attention of a transformer with the keys and values of ``memory``.

        with SelfAttentionConcat(memory).attach(pipe):
            video = pipe(prompt).frames[0]

    Args:
        memory: tokens of the transformer's width. A batch of one is used for any batch size; otherwise the batch sizes
            must be equal. Masked tokens are never attended to, whatever their values. A sample without any unmasked
            token gets bit-identical outputs to the model without memory. With a gate, memory has a softmax of its own
            and is added as ``y + gate · y_memory``; without one, as in the release, a single softmax covers video and
            memory.
        recorder: if given, records the share of attention that falls on memory, in [0, 1], as the series "memory"
            [calls, layers, batch]: the mean over queries and heads. With a gate, it is memory's share of the output
            instead, |gate·y_memory| / (|y| + |gate·y_memory|). Not supported under ``torch.compile``.
    """

    def __init__(self, memory: Memory, recorder: AttentionRecorder | None = None) -> None:
        if not isinstance(memory, Memory):
            raise InputError(f"memory is {shown(memory)}; give a Memory.")
        self.memory = memory
        self.recorder = recorder
        self.shown = True
        """Whether attached transformers use the memory; `memkit.generation.guidance` switches it off for some calls."""
        self._tokens = _visible_tokens(memory)

    def __repr__(self) -> str:
        return described(self, repr(self.memory), "" if self.recorder is None else "with a recorder")

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        Several different memories may be attached at the same time. With gradient checkpointing, the backward pass runs
        the blocks again: call ``backward`` inside the ``with`` statement.

        Raises:
            InputError: no transformer is given, one is of an unknown class or already has this memory attached, or its
                width, or its numbers of layers and heads, differ from those of the memory or its gate.
        """
        transformers = transformers_of(models, MEMORY_TOKENS)
        for model in transformers:
            sizes = adapter_of(model).sizes(model)
            if self.memory.tokens.shape[-1] != sizes.width:
                raise InputError(
                    f"Memory tokens have width {self.memory.tokens.shape[-1]}, the transformer has {sizes.width}; "
                    f"use an encoder for this width (dim={sizes.width})."
                )
            shape = (sizes.layers, sizes.heads)
            if self.memory.gate is not None and self.memory.gate.shape != shape:
                raise InputError(
                    f"The memory's gate is for {tuple(self.memory.gate.shape)} layers and heads, the transformer has "
                    f"{shape}; use an encoder with a gate for it (encoder.gate = MemoryGate{shape})."
                )
        return _AttachedMemory(self, transformers)

    def layer(self, adapter: BackboneAdapter, layer: int, key: str) -> _ConcatLayer:
        """The injection of one layer of a model with this adapter; ``key`` is the key of the attachment."""
        gate = None if self.memory.gate is None else self.memory.gate[layer]
        return _ConcatLayer(self, adapter, layer, self._tokens, gate, key)


class _AttachedMemory(Attached):
    """Memory tokens attached to transformers."""

    kind = MEMORY_TOKENS
    several = True
    owner: SelfAttentionConcat

    def runs_in_parallel(self) -> bool:
        """Without a recorder, which would see the heads of one process."""
        return self.owner.recorder is None

    def part(self, model: Model, layer: int) -> _ConcatLayer:
        return self.owner.layer(adapter_of(model), layer, self.key)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        if self.owner.recorder is None or not self.owner.shown:
            return carrier
        refuse_cache(model, "a recorder would miss shares of attention")
        return carrier.with_state(self.key, self.owner.recorder.begin(adapter_of(model).sizes(model).layers))


@dataclass(frozen=True)
class _VisibleTokens:
    """Memory without the tokens that are masked in every sample."""

    tokens: Float[Tensor, "batch memory dim"]
    logits: Float[Tensor, "batch memory"] | None
    has_memory: Tensor | None  # [B,1,1,1], True for samples with memory; None if all have some


def _visible_tokens(memory: Memory) -> _VisibleTokens | None:
    tokens, logits = memory.tokens, memory.logits()
    if logits is not None:
        keep = (logits != -float("inf")).any(dim=0)
        tokens, logits = tokens[:, keep], logits[:, keep]
        hidden = logits == -float("inf")
        if not hidden.any() and memory.log_weight is None:
            logits = None
        tokens = tokens.masked_fill(hidden[..., None], 0.0)  # hidden tokens may have any values, even NaN
    if tokens.shape[1] == 0:
        return None
    has_memory = None if logits is None else (logits != -float("inf")).any(dim=1)
    if has_memory is None or bool(has_memory.all()):
        return _VisibleTokens(tokens, logits, None)
    return _VisibleTokens(tokens, logits, has_memory[:, None, None, None])


class _ConcatLayer:
    """The injection of one layer."""

    def __init__(
        self,
        owner: SelfAttentionConcat,
        adapter: BackboneAdapter,
        layer: int,
        visible: _VisibleTokens | None,
        gate: Tensor | None,
        key: str,
    ) -> None:
        self.owner, self.adapter, self.layer = owner, adapter, layer
        self.visible, self.gate, self.key = visible, gate, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Any, carrier: Carrier) -> _Prepared | None:
        """The memory tokens [B,M,D], modulated for this block."""
        if self.visible is None or not self.owner.shown:
            return None
        tokens = self.visible.tokens.to(hidden.device)
        if tokens.shape[0] not in (1, hidden.shape[0]):
            raise InputError(
                f"Memory has a batch of {tokens.shape[0]}, the model runs a batch of {hidden.shape[0]}; "
                "give one memory for all samples, or one per sample."
                + several_videos(tokens.shape[0], hidden.shape[0], "attach memory.repeat_interleave({n})")
            )
        if carrier.grad and tokens.requires_grad and not torch.is_grad_enabled():
            raise MemkitError(
                "Memory tokens get no gradient under reentrant checkpointing; call "
                "transformer.enable_gradient_checkpointing() without a function of your own, or with "
                "use_reentrant=False."
            )
        tokens = tokens.expand(hidden.shape[0], -1, -1)
        row = None if self.owner.recorder is None else carrier.states.get(self.key)
        return _Prepared(self.adapter.modulate(block, tokens, temb).type_as(hidden), row)

    def extend(self, table: Table, attn: nn.Module, prepared: _Prepared) -> str:
        """Add the memory's keys and values: to the softmax of the video or, with a gate, to a separate one."""
        assert self.visible is not None
        group = f"memory {len(table.kv)}"
        table.kv[group] = self.adapter.project_kv(attn, prepared.tokens)
        if self.visible.logits is not None:
            logits = self.visible.logits.to(prepared.tokens.device)
            table.log_weight[group] = logits.expand(prepared.tokens.shape[0], -1)
        if self.gate is not None:
            table.q[group], table.sees[group] = table.q[VIDEO], (group,)
            return group
        own = {name: table.sees[name] for name in (VIDEO, TEXT) if name in table.q}
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        if self.visible.has_memory is not None:  # samples without memory get exactly the model's own attention
            for name, row in own.items():
                table.q[f"{name} not {group}"], table.sees[f"{name} not {group}"] = table.q[name], row
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: _Prepared) -> None:
        """Combine the outputs into that of the video."""
        assert self.visible is not None
        if self.gate is not None:
            added = self.gate.to(out[VIDEO])[:, None] * out.pop(group)
            if prepared.row is not None:
                of_video, of_memory = out[VIDEO].float().norm(dim=-1), added.float().norm(dim=-1)
                prepared.row.record(SHARES, self.layer, (of_memory / (of_video + of_memory)).mean((1, 2)))
            out[VIDEO] = out[VIDEO] + added
            return
        if prepared.row is not None:
            own = {pair: route for pair, route in table.routes.items() if pair[0] == VIDEO}
            shares = attention_share({VIDEO: table.q[VIDEO]}, table.kv, table.sees, group, table.log_weight, own)
            prepared.row.record(SHARES, self.layer, shares[VIDEO].mean((1, 2)))
        if self.visible.has_memory is not None:
            has_memory = self.visible.has_memory.to(out[VIDEO].device)
            for name in (VIDEO, TEXT):
                if name in out:
                    out[name] = torch.where(has_memory, out[name], out.pop(f"{name} not {group}"))


@dataclass(frozen=True)
class _Prepared:
    """The modulated memory tokens [B,M,D] of one block, and the recorder's row, if there is a recorder."""

    tokens: Tensor
    row: Row | None
