"""`SelfAttentionConcat`: memory tokens join the keys and values of every self-attention (DiT-Mem, arXiv 2511.19229).

In each block the tokens are normed and modulated as the block does its own at the current timestep, then projected to
keys and values by the block's own weights; they carry no position and never ask. (The release also computes their
queries and output rows and drops them, which costs 2 % of a block at 480p and half of it at small sizes.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from memkit.attention import attention_share
from memkit.backbones.attached import Attached
from memkit.backbones.base import VIDEO, Carrier, Table
from memkit.backbones.unwrap import Attachable, wans_of
from memkit.backbones.wan_attention import modulate, project_kv
from memkit.errors import InputError, MemkitError
from memkit.injectors.attention_recorder import AttentionRecorder, Row
from memkit.memory import Memory

SHARES = "memory"
"""The series of an `AttentionRecorder` that holds the share of the video's attention on memory tokens, per sample."""


class SelfAttentionConcat:
    """Lets every self-attention of a Wan transformer see ``memory``.

        with SelfAttentionConcat(memory).attach(pipe):
            video = pipe(prompt).frames[0]

    Args:
        memory: tokens in the width of the transformer. A batch of one serves any batch; otherwise the batches must
            agree. Masked tokens are never seen, whatever they hold. With no real token at all, every output is bit for
            bit the model's own; so is that of each sample without one in a batch where others have some. With a gate,
            memory gets a softmax of its own and enters as ``y + gate · y_memory``; without one, as in the release, one
            softmax covers both.
        recorder: if given, records the share of attention that falls on memory, in [0, 1], as the series "memory"
            [calls, layers, batch]: the mean over queries and heads. A gated memory has a softmax of its own; there it
            is memory's share of the output, |gate·y_memory| of |y| + |gate·y_memory|. Not for use under
            ``torch.compile``.
    """

    def __init__(self, memory: Memory, recorder: AttentionRecorder | None = None) -> None:
        self.memory = memory
        self.recorder = recorder
        self.shown = True
        """Whether attached transformers see the memory; `memkit.generation.guidance` hides it from some calls."""
        self._visible = _visible(memory)

    def attach(self, *models: Attachable) -> Attached:
        """Attach to each transformer, or each expert of a pipeline or backbone, until ``detach()`` or the end of the
        ``with``.

        Several different memories may be attached beside each other. Under gradient checkpointing the backward pass
        runs the blocks again: keep it inside the ``with``.

        Raises:
            InputError: no transformer, one that has this memory attached, not a Wan transformer, another width than
                the memory's, or a gate of other layers and heads.
        """
        transformers = wans_of(models)
        for model in transformers:
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
        return _AttachedMemory(self, transformers)

    def layer(self, layer: int, key: str) -> _ConcatLayer:
        """The injection of one layer, for the attachment of this key."""
        gate = None if self.memory.gate is None else self.memory.gate[layer]
        return _ConcatLayer(self, layer, self._visible, gate, key)


class _AttachedMemory(Attached):
    """Memory tokens on some transformers."""

    kind = "memory tokens"
    several = True
    owner: SelfAttentionConcat

    def part(self, model: WanTransformer3DModel, layer: int) -> _ConcatLayer:
        return self.owner.layer(layer, self.key)

    def rotary(self, model: WanTransformer3DModel, latents: Tensor, carrier: Carrier) -> Carrier:
        if self.owner.recorder is None or not self.owner.shown:
            return carrier
        return carrier.with_state(self.key, self.owner.recorder.begin(len(model.blocks)))


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

    def __init__(
        self, owner: SelfAttentionConcat, layer: int, visible: _Visible | None, gate: Tensor | None, key: str
    ) -> None:
        self.owner, self.layer, self.visible, self.gate, self.key = owner, layer, visible, gate, key

    def prepare(self, block: nn.Module, hidden: Tensor, temb: Tensor, carrier: Carrier) -> _Prepared | None:
        """The modulated tokens [B,M,D] of this block."""
        if self.visible is None or not self.owner.shown:
            return None
        tokens = self.visible.tokens.to(hidden.device)
        if tokens.shape[0] not in (1, hidden.shape[0]):
            raise InputError(
                f"Memory has a batch of {tokens.shape[0]}, the model runs a batch of {hidden.shape[0]}; "
                "give one memory for all, or one per sample (repeat it for num_videos_per_prompt)."
            )
        if carrier.grad and tokens.requires_grad and not torch.is_grad_enabled():
            raise MemkitError(
                "Memory tokens get no gradient under reentrant checkpointing; call "
                "transformer.enable_gradient_checkpointing() without a function of your own, or with "
                "use_reentrant=False."
            )
        tokens = tokens.expand(hidden.shape[0], -1, -1)
        row = None if self.owner.recorder is None else carrier.states.get(self.key)
        return _Prepared(modulate(block, tokens, temb).type_as(hidden), row)

    def extend(self, table: Table, attn: nn.Module, prepared: _Prepared) -> str:
        """Show the memory's keys and values to the video, in its own softmax or, gated, in one apart."""
        assert self.visible is not None
        group = f"memory {len(table.kv)}"
        table.kv[group] = project_kv(attn, prepared.tokens)
        if self.visible.logits is not None:
            logits = self.visible.logits.to(prepared.tokens.device)
            table.log_weight[group] = logits.expand(prepared.tokens.shape[0], -1)
        if self.gate is not None:
            table.q[group], table.sees[group] = table.q[VIDEO], (group,)
            return group
        if self.visible.some is not None:  # samples without memory get the model's own attention, to the bit
            table.q[f"not {group}"], absent = table.q[VIDEO], table.sees[VIDEO]
        else:
            absent = None
        for name, row in table.sees.items():
            if VIDEO in row:
                table.sees[name] = (*row, group)
        if absent is not None:
            table.sees[f"not {group}"] = absent
        return group

    def finish(self, table: Table, group: str, out: dict[str, Tensor], prepared: _Prepared) -> None:
        """Leave in ``out`` the video's own row."""
        assert self.visible is not None
        if self.gate is not None:
            added = self.gate.to(out[VIDEO])[:, None] * out.pop(group)
            if prepared.row is not None:
                own, other = out[VIDEO].float().norm(dim=-1), added.float().norm(dim=-1)
                prepared.row.record(SHARES, self.layer, (other / (own + other)).mean((1, 2)))
            out[VIDEO] = out[VIDEO] + added
            return
        if prepared.row is not None:
            shares = attention_share({VIDEO: table.q[VIDEO]}, table.kv, table.sees, group, table.log_weight)
            prepared.row.record(SHARES, self.layer, shares[VIDEO].mean((1, 2)))
        if self.visible.some is not None:
            out[VIDEO] = torch.where(self.visible.some.to(out[VIDEO].device), out[VIDEO], out.pop(f"not {group}"))


@dataclass(frozen=True)
class _Prepared:
    """What one block adds: modulated tokens [B,M,D], and where to record shares, if they are wanted."""

    tokens: Tensor
    row: Row | None
