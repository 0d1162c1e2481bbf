"""`Memory`: what encoders return and injectors take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    """

    tokens: Float[Tensor, "batch memory dim"]
    mask: Bool[Tensor, "batch memory"] | None = None
    log_weight: Float[Tensor, "batch memory"] | None = None
    gate: Float[Tensor, "layers heads"] | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise InputError(
                f"Memory.mask is {self.mask.dtype}; give torch.bool with True where a token is real, "
                f"mask.bool() for ones and zeros; weights go into log_weight."
            )
        for name in ("mask", "log_weight"):
            value = getattr(self, name)
            if value is not None and value.shape != self.tokens.shape[:2]:
                raise InputError(
                    f"Memory.{name} has shape {tuple(value.shape)} but tokens {tuple(self.tokens.shape)}; "
                    f"give it the shape {tuple(self.tokens.shape[:2])}."
                )

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
        """The same memory on a device; ``dtype`` is that of the tokens, weights and gate keep theirs."""
        return Memory(
            self.tokens.to(device=device, dtype=dtype),
            None if self.mask is None else self.mask.to(device=device),
            None if self.log_weight is None else self.log_weight.to(device=device),
            None if self.gate is None else self.gate.to(device=device),
        )

    def detach(self) -> Memory:
        """The same memory, detached from the autograd graph."""
        weight = None if self.log_weight is None else self.log_weight.detach()
        return Memory(self.tokens.detach(), self.mask, weight, None if self.gate is None else self.gate.detach())

    def rows(self, index: Int[Tensor, " rows"]) -> Memory:
        """The memory of some samples of the batch."""
        mask = None if self.mask is None else self.mask[index]
        weight = None if self.log_weight is None else self.log_weight[index]
        return Memory(self.tokens[index], mask, weight, self.gate)

    def repeat_interleave(self, repeats: int) -> Memory:
        """Each sample's memory ``repeats`` times in a row: for ``num_videos_per_prompt``, whose batch is ordered prompt
        by prompt."""
        batch = torch.arange(self.tokens.shape[0], device=self.tokens.device)
        return self.rows(batch.repeat_interleave(repeats))

    def expand(self) -> Memory:
        """Each token repeated as often as its log-weight says: ln(n) becomes n consecutive tokens of log-weight 0.

        Attention gives the same result at n times the cost; this is the layout of DiT-Mem's release.

        Raises `InputError` where a weight is not ln(n) of a whole n > 0, or differs between the samples.
        """
        if self.log_weight is None:
            return self
        counts = self.log_weight[0].exp().round().clamp(min=1)
        if not torch.allclose(counts.log().expand_as(self.log_weight), self.log_weight, atol=1e-4):
            raise InputError("Only log-weights ln(n) of whole numbers, the same for all samples, can be expanded.")
        times = counts.long()
        mask = None if self.mask is None else self.mask.repeat_interleave(times, dim=1)
        return Memory(self.tokens.repeat_interleave(times, dim=1), mask, gate=self.gate)

    def logits(self) -> Float[Tensor, "batch memory"] | None:
        """Mask and log-weight as one number per token, −inf where masked; None if all are real with log-weight 0."""
        if self.mask is None:
            return self.log_weight
        base = torch.zeros_like(self.mask, dtype=torch.float32) if self.log_weight is None else self.log_weight
        return base.masked_fill(~self.mask, -torch.inf)

    @staticmethod
    def cat(memories: Sequence[Memory]) -> Memory:
        """One memory with the tokens of all, in order.

        Raises `InputError` where their gates differ: one softmax cannot be scaled by two gates.
        """
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
        return Memory(tokens, mask, weight, gate)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and a.shape == b.shape and torch.equal(a, b.to(a.device)))


def _or(value: Tensor | None, default: Tensor) -> Tensor:
    return default if value is None else value
