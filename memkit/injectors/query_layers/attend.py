"""`attend_with`: the attention of the query layers to each frame of a context (MemLearner, arXiv 2606.31734)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.unwrap import transformer_of
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.query_layers.attachment import AttachedQueries
from memkit.injectors.query_layers.injection import uncompiled


class _QueryLayersDone(Exception):
    """Ends a forward pass after the last query layer."""


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
    """Share of the queries' attention on each frame of a context, in [0, 1]: the mean over the query layers.

    Runs one forward pass without gradients, which ends after the last query layer. `memkit.retrievers.LearnedQuery` is
    a retriever that ranks frames by these shares.

    Args:
        attached: the query layers, attached to ``transformer``, with no chunk open.
        transformer: the transformer that ``attached`` is attached to.
        latents: the latents of P, with the noise level of ``timestep``.
        timestep: t = 1000·σ in [0, 1000], [B].
        text: text embeddings.
        context: latents of the context frames to rank.
        query: noise for Q; see `AttachedQueries.chunk`, as for the other arguments.
        positions: positions of the frames of P.
        context_positions: positions of the context frames.
        cameras: poses of the frames of P.
        context_cameras: poses of the context frames.
        annotation: kind of the poses.

    Raises:
        InputError: arguments do not fit each other, as in ``chunk``, or the transformer has other query layers.
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
        raise _QueryLayersDone

    # The pass of the context ends inside this block, so the hook is called only in the pass of Q and P.
    model = transformer_of(transformer)
    last = adapter_of(model).blocks(model)[attached.config.layers - 1]
    hook = last.register_forward_hook(stop)
    try:
        with torch.no_grad(), chunk, uncompiled(last), contextlib.suppress(_QueryLayersDone):
            transformer(latents, timestep, text)
    finally:
        hook.remove()
    shares = recorder.shares()
    if len(shares) == 0:
        raise InputError("The transformer ran without these query layers; give the one that they are attached to.")
    return shares[0].mean(0)
