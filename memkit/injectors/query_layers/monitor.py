"""`QueryMonitor`: which frames of the context the queries attend to (MemLearner, arXiv 2606.31734)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.attention import attention_share
from memkit.backbones.attachment import wan_of
from memkit.backbones.base import Table
from memkit.errors import InputError

if TYPE_CHECKING:
    from memkit.injectors.query_layers.attachment import QueryAttachment

AT_ONCE = 2**26
"""Logits held at a time: 256 MiB."""


class QueryMonitor:
    """Collects the share of Q's attention that falls on each frame of the context, in [0, 1].

    It is the mean over Q's tokens and heads of the softmax that the layer takes, over all that Q sees, so the shares of
    a sample sum to 1 less what falls on P and on other memory. Pass one to each chunk, or to each call of a
    `QueryModule`; each forward then adds one row. With classifier-free guidance, Wan makes two forwards a step: the
    conditional one first. A forward that was cut short by an error leaves no row.

        monitor = QueryMonitor()
        with query.attach(transformer) as attached, attached.chunk(context, monitor=monitor):
            latents = pipe(prompt, output_type="latent").frames
        monitor.shares().mean((0, 1))

    The shares are exact and cost as much again as the attention of Q. With ``followed``, the share of P's attention
    that falls on Q is recorded in all layers too, which costs as much again as the attention of P.
    """

    def __init__(self, followed: bool = False) -> None:
        self.wants_followed = followed
        self._rows: list[QueryRow] = []

    def begin(self, layers: int, frames: int) -> QueryRow:
        """A row for a forward with so many query layers and frames of context."""
        self._rows.append(QueryRow(layers, frames, self.wants_followed))
        return self._rows[-1]

    def shares(self) -> Float[Tensor, "calls layers batch context_frames"]:
        """One row a forward of the transformer, fp32 on the CPU; empty before the first.

        Raises:
            InputError: the forwards differ in batch or in frames of context.
        """
        return _stacked([row.shares for row in self._rows if len(row.shares) == row.layers], 4)

    def followed(self) -> Float[Tensor, "calls layers batch"]:
        """The share of P's attention on Q, in all layers; empty where it was not asked for, and of a `QueryModule`.

        Raises:
            InputError: the forwards differ in batch or in layers.
        """
        whole = [row.followed for row in self._rows if row.followed and len(row.shares) == row.layers]
        return _stacked(whole, 3)


def _stacked(rows: Sequence[dict[int, Tensor]], dims: int) -> Tensor:
    made = [torch.stack([row[layer] for layer in sorted(row)]) for row in rows]
    if not made:
        return torch.zeros([0] * dims)
    shapes = sorted({tuple(row.shape) for row in made})
    if len(shapes) > 1:
        raise InputError(f"The forwards gave shares [layers, batch, …] of {shapes}; use a monitor for each.")
    return torch.stack(made)


class QueryRow:
    """The shares of one forward. A layer that gradient checkpointing runs again gives the same ones again."""

    def __init__(self, layers: int, frames: int, wants_followed: bool = False) -> None:
        self.layers = layers
        self.frames = frames
        self.wants_followed = wants_followed
        self.shares: dict[int, Tensor] = {}
        self.followed: dict[int, Tensor] = {}

    def record(self, layer: int, table: Table, query: str, context: str) -> None:
        """Keep the shares of a layer: of the groups ``query`` and ``context`` of its table."""
        self.shares[layer] = context_shares(table, query, context, self.frames).cpu()

    @torch.no_grad()
    def follow(self, layer: int, table: Table, video: str, query: str) -> None:
        """Keep the share of the attention of group ``video`` on ``query``, if it is wanted."""
        if self.wants_followed:
            q = {video: table.q[video]}
            share = attention_share(q, table.kv, table.sees, query, table.log_weight)[video]
            self.followed[layer] = share.mean((1, 2)).cpu()


@torch.no_grad()
def context_shares(
    table: Table, query: str, context: str, frames: int, at_once: int = AT_ONCE
) -> Float[Tensor, "batch frames"]:
    """Share of the attention of group ``query`` on each frame of ``context``, over all that its row of the table names.

    Computed in fp32, a few queries at a time, so that no more than ``at_once`` logits are held (those of one token at
    least). The tokens of a context are ``frames`` runs of equal length. A query that sees nothing has shares of 0.
    """
    q = table.q[query]
    batch, tokens, heads, dim = q.shape
    names = [name for name in table.sees[query] if table.kv[name][0].shape[1] > 0]
    total = torch.zeros(batch, frames, device=q.device)
    if frames == 0 or tokens == 0 or context not in names:
        return total
    names.sort(key=lambda name: name != context)  # its frames come first
    keys = {name: table.kv[name][0].float().permute(0, 2, 3, 1) for name in names}
    longest = max(k.shape[-1] for k in keys.values())
    for part in (q.float() * dim**-0.5).transpose(1, 2).split(max(1, at_once // (batch * heads * longest)), dim=2):
        masses = []
        for name, k in keys.items():
            logits = part @ k
            if name in table.log_weight:
                logits = logits + table.log_weight[name].float()[:, None, None]
            masses.append(logits.unflatten(-1, (frames if name == context else 1, -1)).logsumexp(-1))
        mass = torch.cat(masses, dim=-1)
        blind = (mass == -torch.inf).all(-1, keepdim=True)
        share = mass.softmax(-1).masked_fill(blind, 0.0)
        total += share[..., :frames].sum((1, 2))
    return total / (tokens * heads)


class _Seen(Exception):
    """The last query layer has run: nothing after it is needed."""


def attend_with(
    attached: QueryAttachment,
    transformer: nn.Module,
    latents: Float[Tensor, "batch channels frames height width"],
    timestep: Tensor,
    text: Float[Tensor, "batch words text_dim"],
    *,
    context: Float[Tensor, "_ _ context_frames _ _"],
    query: Float[Tensor, "_ _ _ _ _"] | None = None,
    positions: Sequence[int] | None = None,
    context_positions: Sequence[int] | None = None,
    cameras: Float[Tensor, "_ _ 12"] | None = None,
    context_cameras: Float[Tensor, "_ _ 12"] | None = None,
    annotation: str = "exact",
) -> Float[Tensor, "batch context_frames"]:
    """How much the query layers attend to each frame of a context: the mean over them, in [0, 1].

    One forward without gradients, which ends after the last query layer. `memkit.retrievers.LearnedQuery` makes it a
    retriever.

    Args:
        attached: the query layers, attached to ``transformer``, with no chunk open.
        transformer: what ``attached`` is attached to.
        latents: P, as noisy as ``timestep`` says.
        timestep: t = 1000·σ, [B].
        text: as the transformer takes it.
        context, query, positions, context_positions, cameras, context_cameras, annotation: as
            `QueryAttachment.chunk` takes them; the context is what is to be ranked.

    Raises:
        InputError: arguments that do not fit each other, as in ``chunk``; a transformer that has other query layers.
        MemkitError: a chunk is open.
    """
    monitor = QueryMonitor()
    chunk = attached.chunk(
        context,
        query,
        positions=positions,
        context_positions=context_positions,
        cameras=cameras,
        context_cameras=context_cameras,
        annotation=annotation,
        monitor=monitor,
    )

    def stop(*_: object) -> None:
        raise _Seen

    # The pass of the context never leaves this block, so it is the pass of Q and P that ends here.
    hook = wan_of(transformer).blocks[attached.query.config.layers - 1].register_forward_hook(stop)
    try:
        with torch.no_grad(), chunk, contextlib.suppress(_Seen):
            transformer(latents, timestep, text)
    finally:
        hook.remove()
    shares = monitor.shares()
    if len(shares) == 0:
        raise InputError("The transformer ran without these query layers; give the one that they are attached to.")
    return shares[0].mean(0)
