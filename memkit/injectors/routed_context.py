"""`RoutedContext`: each query attends to the frames that it fits best (Mixture of Contexts, arXiv 2508.21058v3).

The tokens of a sequence are chunks of equal length, by default one per latent frame. In each head of each layer, a
query q sees its own chunk and the k others whose mean key has the largest inner product with q (our reading: after the
rotation); there is no router to be trained. All else that the model sees, such as text in joint attention, memory
tokens and cached frames, it sees in full.

This computes by masks what a sparse kernel would compute, and saves no time: `RoutedContext.pairs` says how many pairs
of query and key are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from memkit.backbones.attached import Attached
from memkit.backbones.base import FRAME_CONTEXT, QUERY_LAYERS, ROUTED, Carrier
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import MOST_FRAMES, check_fields, check_whole
from memkit.errors import InputError


@dataclass(frozen=True)
class RoutedContext:
    """Routing of a model's own self-attention.

    with RoutedContext(k=3).attach(transformer):
        velocity = transformer(latents, t, text).sample
    """

    k: int
    """Number of chunks that a query chooses beside its own; with as many as there are, attention is dense."""
    frames: int = 1
    """Latent frames per chunk."""
    causal: bool = False
    """Whether chunks see and choose among earlier ones only, as in the paper's videos of several shots."""
    drop_off: float = 0.0
    """In training mode, floor(p·k) of the choices are removed, for p uniform up to this (the paper gives no value)."""
    drop_in: float = 0.0
    """In training mode, mean of a Poisson number of random chunks that are seen too (the paper gives no value)."""

    def __post_init__(self) -> None:
        check_fields(self, k=(0, MOST_FRAMES), frames=(1, MOST_FRAMES), drop_off=(0, 1), drop_in=(0, 1000))

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        Raises `InputError` where there is no transformer, one is repeated, cannot have routed context, or has teacher
        forcing or other routed context attached.
        """
        return _AttachedRoutes(self, transformers_of(models, ROUTED))

    def pairs(self, chunks: int, tokens: int) -> tuple[int, int]:
        """Pairs of query and key in one head of one layer, for so many chunks of so many tokens: routed, and dense."""
        check_whole("chunks", chunks, 1)
        check_whole("tokens", tokens, 1)
        seen = sum(1 + min(self.k, i if self.causal else chunks - 1) for i in range(chunks))
        return seen * tokens**2, (chunks * tokens) ** 2

    def routes(self, q: Tensor, k: Tensor, chunks: int, training: bool = False) -> Bool[Tensor, "batch heads s chunks"]:
        """The chunks that each query [B,S,H,D] sees, of keys of the same shape."""
        means = k.unflatten(1, (chunks, -1)).float().mean(2)
        own = torch.arange(chunks, device=q.device).repeat_interleave(q.shape[1] // chunks)
        other = torch.arange(chunks, device=q.device)
        open_to = (other < own[:, None]) if self.causal else (other != own[:, None])
        scores = torch.einsum("bshd,bchd->bhsc", q.detach().float(), means.detach())
        scores = scores.masked_fill(~open_to, -torch.inf)
        best = scores.topk(min(self.k, chunks), dim=-1).indices
        if training and self.drop_off:
            removed = int(float(torch.rand(())) * self.drop_off * best.shape[-1])
            kept = torch.rand(best.shape, device=q.device).argsort(-1)[..., removed:]
            best = best.gather(-1, kept)
        seen = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)
        if training and self.drop_in:
            order = torch.rand(scores.shape, device=q.device).argsort(-1).argsort(-1)
            seen |= order < torch.poisson(torch.full_like(scores[..., :1], self.drop_in))
        return (seen & open_to) | (other == own[:, None])


class _AttachedRoutes(Attached):
    """Routed context attached to transformers."""

    kind = ROUTED
    needs_frames = True
    owner: RoutedContext

    def part(self, model: Model, layer: int) -> _Route:
        return _Route(self.owner, self.key)

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        assert grid is not None
        return carrier.with_state(self.key, (grid.tokens_per_frame * self.owner.frames, grid.tokens_per_frame))


class _Route:
    """The routing of one layer."""

    def __init__(self, owner: RoutedContext, key: str) -> None:
        self.owner, self.key = owner, key

    def route(self, attn: nn.Module, q: Tensor, k: Tensor, carrier: Carrier) -> Tensor:
        """The chunks that each query sees. Raises `InputError` where tokens are not whole chunks."""
        tokens, per_frame = carrier.state(self.key)
        counts = getattr(carrier.states.get(FRAME_CONTEXT), "counts", ())
        packed = QUERY_LAYERS in carrier.states or any(count != per_frame for count in counts)
        if packed or q.shape[1] % tokens or k.shape[1] != q.shape[1]:
            raise InputError(
                f"The sequence has {q.shape[1]} tokens, which are no whole chunks of {tokens}; give RoutedContext a "
                "number of frames that divides them, and detach packed frames and query layers."
            )
        return self.owner.routes(q, k, q.shape[1] // tokens, attn.training)
