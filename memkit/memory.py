"""`Memory`: what encoders return and injectors take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.checks import check_finite, check_floats, check_room, check_weights, check_whole, extremes, shown
from memkit.errors import InputError


@dataclass(frozen=True)
class Memory:
    """Memory tokens of a batch, in the width of the backbone that will see them.

    ``mask`` is True where a token is real; a masked token is never attended to. ``log_weight`` is added to the logit of
    every query for that token: ln(n) stands for n copies, ln(score) weights by relevance. None means that
    all tokens are real, or have log-weight 0.

    With a ``gate``, which encoders that were trained with one fill in, memory gets a softmax of its own in
    self-attention and enters as ``y + gate · y_memory``, one scale in (-1, 1) per layer and head of the backbone
    (LLaMA-Adapter, arXiv 2303.16199). Without one, video and memory share a softmax, as in DiT-Mem's release.

    Values are looked at once, when a memory is made: 0.1 s for 10,000 tokens of width 5120 in bf16 on one CPU core, and
    one synchronisation per tensor on a GPU.

    Raises `InputError` for tensors of other shapes or dtypes, or on several devices; for NaN or infinity in the tokens
    that are attended to or in the gate; and for log-weights that are neither finite nor −inf.
    """

    tokens: Float[Tensor, "batch memory dim"]
    mask: Bool[Tensor, "batch memory"] | None = None
    log_weight: Float[Tensor, "batch memory"] | None = None
    gate: Float[Tensor, "layers heads"] | None = None

    def __post_init__(self) -> None:
        self._check_layout()
        if self.log_weight is not None:
            check_weights("Memory.log_weight", self.log_weight, "[B, M]")
        if self.gate is not None:
            check_finite("Memory.gate", self.gate, "[layers, heads]")
        hidden = self.logits()
        check_finite("Memory.tokens", self.tokens, "[B, M, D]", None if hidden is None else hidden == -torch.inf)

    def _check_layout(self) -> None:
        check_floats("Memory.tokens", self.tokens, "[B, M, D]")
        if self.mask is not None and getattr(self.mask, "dtype", None) != torch.bool:
            raise InputError(
                f"Memory.mask is {getattr(self.mask, 'dtype', shown(self.mask))}; give torch.bool with True where a "
                f"token is real, mask.bool() for ones and zeros; weights go into log_weight."
            )
        if self.log_weight is not None:
            check_floats("Memory.log_weight", self.log_weight)
        for name in ("mask", "log_weight"):
            value = getattr(self, name)
            if value is not None and value.shape != self.tokens.shape[:2]:
                raise InputError(
                    f"Memory.{name} has shape {tuple(value.shape)} but tokens {tuple(self.tokens.shape)}; "
                    f"give it the shape {tuple(self.tokens.shape[:2])}."
                )
            if value is not None and value.device != self.tokens.device:
                raise InputError(
                    f"Memory.{name} is on {value.device}, the tokens on {self.tokens.device}; move them to one device."
                )

    @classmethod
    def _of(cls, tokens: Tensor, mask: Tensor | None, log_weight: Tensor | None, gate: Tensor | None) -> Memory:
        """A memory of what was checked already, as part of other memories."""
        memory = object.__new__(cls)
        for name, value in (("tokens", tokens), ("mask", mask), ("log_weight", log_weight), ("gate", gate)):
            object.__setattr__(memory, name, value)
        return memory

    def __repr__(self) -> str:
        facts = [f"tokens {list(self.tokens.shape)} {str(self.tokens.dtype).removeprefix('torch.')}"]
        facts[0] += f" on {self.tokens.device}"
        if self.mask is not None:
            facts.append(f"{int(self.mask.sum())} of {self.mask.numel()} real")
        if self.log_weight is not None:
            facts.append("log_weight")
        if self.gate is not None:
            facts.append(f"gate {list(self.gate.shape)}")
        return f"Memory({', '.join(facts)})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Memory:
        """The same memory on a device; ``dtype`` is that of the tokens, weights and gate keep theirs.

        Raises `InputError` where tokens are too large for the dtype.
        """
        make = Memory._of if dtype in (None, self.tokens.dtype) else Memory
        return make(
            self.tokens.to(device=device, dtype=dtype),
            None if self.mask is None else self.mask.to(device=device),
            None if self.log_weight is None else self.log_weight.to(device=device),
            None if self.gate is None else self.gate.to(device=device),
        )

    def detach(self) -> Memory:
        """The same memory, detached from the autograd graph."""
        weight = None if self.log_weight is None else self.log_weight.detach()
        return Memory._of(self.tokens.detach(), self.mask, weight, None if self.gate is None else self.gate.detach())

    def rows(self, index: Int[Tensor, " rows"]) -> Memory:
        """The memory of some samples of the batch.

        Raises `InputError` where the rows are no whole numbers, or not those of the batch.
        """
        batch = self.tokens.shape[0]
        if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype not in (torch.int32, torch.int64):
            raise InputError(f"The rows are {shown(index)}; give a tensor [rows] of whole numbers.")
        low, high = extremes(index)
        if index.numel() and not -batch <= low <= high < batch:
            raise InputError(f"The rows go from {low:.0f} to {high:.0f}; the memory has a batch of {batch}.")
        mask = None if self.mask is None else self.mask[index]
        weight = None if self.log_weight is None else self.log_weight[index]
        return Memory._of(self.tokens[index], mask, weight, self.gate)

    def repeat_interleave(self, repeats: int) -> Memory:
        """Each sample's memory ``repeats`` times in a row: for ``num_videos_per_prompt``, whose batch is ordered prompt
        by prompt.

        Raises `InputError` unless ``repeats`` is a whole number of 1 or more.
        """
        check_whole("repeats", repeats, 1)
        batch = torch.arange(self.tokens.shape[0], device=self.tokens.device)
        return self.rows(batch.repeat_interleave(repeats))

    def expand(self) -> Memory:
        """Each token repeated as often as its log-weight says: ln(n) becomes n consecutive tokens of log-weight 0.

        Attention gives the same result at n times the cost; this is the layout of DiT-Mem's release.

        Raises `InputError` where a weight is not ln(n) of a whole n > 0, or differs between the samples.
        """
        if self.log_weight is None:
            return self
        if not self.log_weight.numel():
            return Memory._of(self.tokens, self.mask, None, self.gate)
        counts = self.log_weight[0].exp().round().clamp(min=1)
        if not torch.allclose(counts.log().expand_as(self.log_weight), self.log_weight, atol=1e-4):
            raise InputError("Only log-weights ln(n) of whole numbers, the same for all samples, can be expanded.")
        per_token = self.tokens.nbytes // self.tokens.shape[1]
        check_room("The memory with all copies of its tokens", int(counts.double().sum()) * per_token, counts.device)
        times = counts.long()
        mask = None if self.mask is None else self.mask.repeat_interleave(times, dim=1)
        return Memory._of(self.tokens.repeat_interleave(times, dim=1), mask, None, self.gate)

    def logits(self) -> Float[Tensor, "batch memory"] | None:
        """Mask and log-weight as one number per token, −inf where masked; None if all are real with log-weight 0."""
        if self.mask is None:
            return self.log_weight
        base = torch.zeros_like(self.mask, dtype=torch.float32) if self.log_weight is None else self.log_weight
        return base.masked_fill(~self.mask, -torch.inf)

    @staticmethod
    def cat(memories: Sequence[Memory]) -> Memory:
        """One memory with the tokens of all, in order.

        Raises `InputError` where there are none, they differ in batch or width, or their gates differ: one softmax
        cannot be scaled by two gates.
        """
        if not memories:
            raise InputError("There are no memories to join; give at least one.")
        for other in memories[1:]:
            if other.tokens.shape[::2] != memories[0].tokens.shape[::2]:
                raise InputError(
                    f"Memories with tokens {list(memories[0].tokens.shape)} and {list(other.tokens.shape)} cannot "
                    "become one; give memories of one batch size and width."
                )
        gate = memories[0].gate
        for other in memories[1:]:
            if not _same(gate, other.gate):
                raise InputError(
                    "The memories have different gates and cannot become one: attach each with its own "
                    "SelfAttentionConcat, or use the tokens of one encoder."
                )
        tokens = torch.cat([m.tokens for m in memories], dim=1)
        masks = [m.mask for m in memories]
        weights = [m.log_weight for m in memories]
        mask = weight = None
        if any(m is not None for m in masks):
            mask = torch.cat(
                [_or(m.mask, m.tokens.new_ones(m.tokens.shape[:2], dtype=torch.bool)) for m in memories], 1
            )
        if any(w is not None for w in weights):
            weight = torch.cat([_or(m.log_weight, m.tokens.new_zeros(m.tokens.shape[:2])) for m in memories], 1)
        return Memory._of(tokens, mask, weight, gate)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b.to(a.device)))


def _or(value: Tensor | None, default: Tensor) -> Tensor:
    return default if value is None else value
