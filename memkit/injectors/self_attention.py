"""`SelfAttentionConcat`: memory tokens join the keys and values of every self-attention (DiT-Mem, arXiv 2511.19229).

In each block the tokens are normed and modulated as the block does its own at the current timestep, then projected to
keys and values by the block's own weights; they carry no position and never ask. (The release also computes their
queries and output rows and drops them, which costs 2 % of a block at 480p and half of it at small sizes.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.attention import attention_share
from memkit.backbones.attachment import Attachment, wan_of
from memkit.backbones.base import VIDEO, Injection, Table
from memkit.backbones.wan_attention import modulate, project_kv
from memkit.errors import InputError
from memkit.injectors.monitor import AttentionMonitor
from memkit.memory import Memory


class SelfAttentionConcat:
    """Lets every self-attention of a Wan transformer see ``memory``.

        with SelfAttentionConcat(memory).attach(pipe.transformer):
            video = pipe(prompt).frames[0]

    Args:
        memory: tokens in the width of the transformer. A batch of one serves any batch; otherwise the batches must
            agree. Masked tokens are never seen, whatever they hold. With no real token at all, every output is bit for
            bit the model's own; so is that of each sample without one in a batch where others have some. With a gate,
            memory gets a softmax of its own and enters as ``y + gate · y_memory``; without one, as in the release, one
            softmax covers both.
        monitor: if given, records the share of attention that falls on memory; not for use under ``torch.compile``.
    """

    def __init__(self, memory: Memory, monitor: AttentionMonitor | None = None) -> None:
        self.memory = memory
        self.monitor = monitor
        self._shown = _visible(memory)

    def attach(self, *transformers: nn.Module) -> Attachment:
        """Attach to each transformer (both experts of Wan2.2 A14B) until ``detach()`` or the end of the ``with``.

        Under gradient checkpointing the backward pass runs the blocks again: keep it inside the ``with``.

        Raises:
            InputError: no transformer, not a Wan transformer, another width than the memory's, or a gate of other
                layers and heads.
        """
        if not transformers:
            raise InputError("attach() needs a transformer: attach(pipe.transformer).")
        for model in map(wan_of, transformers):
            width = model.config.num_attention_heads * model.config.attention_head_dim
            if self.memory.tokens.shape[-1] != width:
                raise InputError(
                    f"Memory tokens have width {self.memory.tokens.shape[-1]}, the transformer has {width}; "
                    f"use an encoder made for it (dim={width})."
                )
            shape = (model.config.num_layers, model.config.num_attention_heads)
            if self.memory.gate is not None and self.memory.gate.shape != shape:
                raise InputError(
                    f"The memory's gate is for {tuple(self.memory.gate.shape)} layers and heads, the transformer has "
                    f"{shape}; use an encoder made for it (encoder.gate = MemoryGate{shape})."
                )
        return Attachment(transformers, lambda _model, layer: self._layer(layer))

    def _layer(self, layer: int) -> Injection:
        gate = None if self.memory.gate is None else self.memory.gate[layer]
        record = None if self.monitor is None else self.monitor.recorder(layer)
        return _ConcatLayer(self._shown, gate, record)


@dataclass(frozen=True)
class _Visible:
    """Memory cut down to the tokens that some sample sees."""

    tokens: Float[Tensor, "batch memory dim"]
    logits: Float[Tensor, "batch memory"] | None
    some: Tensor | None  # [B,1,1,1] True where a sample has memory; None when all have


def _visible(memory: Memory) -> _Visible | None:
    tokens, logits = memory.tokens, memory.logits()
    if logits is not None:
        keep = (logits != -float("inf")).any(dim=0)
        tokens, logits = tokens[:, keep], logits[:, keep]
        hidden = logits == -float("inf")
        if not hidden.any() and memory.log_weight is None:
            logits = None
        tokens = tokens.masked_fill(hidden[..., None], 0.0)  # a hidden token may hold anything, NaN too
    if tokens.shape[1] == 0:
        return None
    some = None if logits is None else (logits != -float("inf")).any(dim=1)
    if some is None or bool(some.all()):
        return _Visible(tokens, logits, None)
    return _Visible(tokens, logits, some[:, None, None, None])


class _ConcatLayer:
    """The injection of one layer."""

    def __init__(self, shown: _Visible | None, gate: Tensor | None, record: Callable[[Tensor], None] | None) -> None:
        self.shown = shown
        self.gate = gate
        self.record = record

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor) -> Tensor | None:
        """The modulated tokens [B,M,D] of this block."""
        if self.shown is None:
            return None
        tokens = self.shown.tokens.to(hidden.device)
        if tokens.shape[0] not in (1, hidden.shape[0]):
            raise InputError(
                f"Memory has a batch of {tokens.shape[0]}, the model runs a batch of {hidden.shape[0]}; "
                "give one memory for all, or one a sample (repeat it for num_videos_per_prompt)."
            )
        tokens = tokens.expand(hidden.shape[0], -1, -1)
        return modulate(block, tokens, temb).type_as(hidden)

    def extend(self, table: Table, attn: nn.Module, prepared: Tensor) -> str:
        """Show the memory's keys and values to the video, in its own softmax or, gated, in one apart."""
        assert self.shown is not None
        group = f"memory {len(table.kv)}"
        table.kv[group] = project_kv(attn, prepared)
        if self.shown.logits is not None:
            table.log_weight[group] = self.shown.logits.to(prepared.device).expand(prepared.shape[0], -1)
        if self.gate is not None:
            table.q[group], table.sees[group] = table.q[VIDEO], (group,)
            return group
        if self.shown.some is not None:  # samples without memory get the model's own attention, to the bit
            table.q[f"not {group}"], absent = table.q[VIDEO], table.sees[VIDEO]
        else:
            absent = None
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        if absent is not None:
            table.sees[f"not {group}"] = absent
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor]) -> None:
        """Leave in ``out`` the video's own row."""
        assert self.shown is not None
        if self.gate is not None:
            added = self.gate.to(out[VIDEO])[:, None] * out.pop(group)
            if self.record is not None:
                own, other = out[VIDEO].float().norm(dim=-1), added.float().norm(dim=-1)
                self.record(other / (own + other))
            out[VIDEO] = out[VIDEO] + added
            return
        if self.record is not None:
            shares = attention_share({VIDEO: table.q[VIDEO]}, table.kv, table.sees, group, table.log_weight)
            self.record(shares[VIDEO])
        if self.shown.some is not None:
            out[VIDEO] = torch.where(self.shown.some.to(out[VIDEO].device), out[VIDEO], out.pop(f"not {group}"))
