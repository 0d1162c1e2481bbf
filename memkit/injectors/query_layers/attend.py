"""`attend_with`: how much the query layers attend to each frame of a context (MemLearner, arXiv 2606.31734)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.unwrap import wan_of
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.query_layers.attachment import AttachedQueries


class _Seen(Exception):
    """The last query layer has run: nothing after it is needed."""


def attend_with(
    attached: AttachedQueries,
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
            `AttachedQueries.chunk` takes them; the context is what is to be ranked.

    Raises:
        InputError: arguments that do not fit each other, as in ``chunk``; a transformer that has other query layers.
        MemkitError: a chunk is open.
    """
    recorder = AttentionRecorder()
    chunk = attached.chunk(
        context,
        query,
        positions=positions,
        context_positions=context_positions,
        cameras=cameras,
        context_cameras=context_cameras,
        annotation=annotation,
        recorder=recorder,
    )

    def stop(*_: object) -> None:
        raise _Seen

    # The pass of the context never leaves this block, so it is the pass of Q and P that ends here.
    hook = wan_of(transformer).blocks[attached.config.layers - 1].register_forward_hook(stop)
    try:
        with torch.no_grad(), chunk, contextlib.suppress(_Seen):
            transformer(latents, timestep, text)
    finally:
        hook.remove()
    shares = recorder.shares()
    if len(shares) == 0:
        raise InputError("The transformer ran without these query layers; give the one that they are attached to.")
    return shares[0].mean(0)
