"""How a chunk of a long video comes by its past: MemLearner and what it is measured against, under one interface.

    LearnedContext     query tokens fetch it inside the model (MemLearner, arXiv 2606.31734)
    RetrievedContext   frames that saw what the chunk will see (Context-as-Memory, 2506.03141)
    NewestContext      the newest frames; history guidance (DFoT, 2502.06764)
    PackedContext      a long past, the older the fewer tokens (FramePack, 2504.12626)
    SeparateContext    query tokens of a module beside the model (MemLearner's failure case)
    NoContext          cameras alone

A method chooses frames of a `History`, and shows them to the transformers while they make the chunk. It is a module:
its parameters are what it trains beside the backbone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, zip_longest
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memkit.cameras.cameras import Cameras
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.frame_context.context import FrameContext
from memkit.injectors.query_layers.chunk import QueryChunk
from memkit.injectors.query_layers.layers import QueryLayers
from memkit.injectors.query_module.module import QueryModule
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory
from memkit.retrievers.fov import FOVRetriever
from memkit.rollout.base import ChunkInputs, ContextMethod, Keeps, relative_poses
from memkit.rollout.frames import Selection
from memkit.rollout.history import History

__all__ = [
    "ContextMethod",
    "ChunkInputs",
    "InSequence",
    "Keeps",
    "LearnedContext",
    "NewestContext",
    "NoContext",
    "PackedContext",
    "RetrievedContext",
    "SeparateContext",
    "query_loss",
    "relative_poses",
]


def _clean(given: ChunkInputs) -> None:
    if given.context_timesteps is not None:
        raise InputError("Queries fetch clean context; noisy frames are for methods with frames in sequence.")


class LearnedContext(ContextMethod):
    """The newest ``frames`` latent frames are context of the query layers; the paper: nine chunks.

    A ``recorder`` records what the queries attend to.
    """

    def __init__(self, query: QueryLayers, frames: int, recorder: AttentionRecorder | None = None) -> None:
        super().__init__(frames)
        self.query, self.recorder = query, recorder
        self._chunk: QueryChunk | None = None

    @property
    def fetched(self) -> Float[Tensor, "batch channels frames height width"] | None:
        """Inside ``shown``, after a call: the latents that the queries hold, as the model's last layer reads them.

        For queries at timestep 0, where a model's best velocity, of noise − latents, is −latents; so this is the
        negative of what it gives for the queries. The paper lets that go; held against the chunk's latents it teaches
        queries what to fetch. Raises `InputError` for queries at another timestep.
        """
        if self.query.config.query_time != "clean":
            raise InputError('Only queries at timestep 0 tell what they hold; make them with query_time="clean".')
        velocity = None if self._chunk is None else self._chunk.query_velocity
        return None if velocity is None else -velocity

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], given: ChunkInputs) -> Iterator[None]:
        _clean(given)
        start = given.noise if self.query.config.query == "noise" else None
        with (
            self.query.attach(*transformers) as attached,
            attached.chunk(
                given.context,
                start,
                cameras=given.poses,
                context_cameras=given.context_poses,
                annotation=given.annotation,
                recorder=self.recorder,
            ) as self._chunk,
        ):
            try:
                yield
            finally:
                self._chunk = None


def query_loss(
    method: ContextMethod, latents: Float[Tensor, "batch channels frames height width"]
) -> Float[Tensor, ""]:
    """Mean squared error of what the queries of a `LearnedContext` hold, in fp32, against the chunk's clean latents.

    Raises `InputError` for another method, for queries at another timestep than 0, and where the model was not called
    inside ``shown``.
    """
    fetched = method.fetched if isinstance(method, LearnedContext) else None
    if fetched is None:
        raise InputError("Nothing was fetched; call the model inside shown(), of a LearnedContext.")
    return (fetched.float() - latents).pow(2).mean()


class InSequence(ContextMethod):
    """Frames beside those of the chunk; the base of the methods that are a `FrameContext`."""

    def __init__(self, context: FrameContext, frames: int, guidance: float = 1.0) -> None:
        super().__init__(frames)
        self.context, self.guidance = context, guidance

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], given: ChunkInputs) -> Iterator[None]:
        with (
            self.context.attach(*transformers) as attached,
            attached.chunk(
                given.context,
                cameras=given.poses,
                context_cameras=given.context_poses,
                annotation=given.annotation,
                context_timesteps=given.context_timesteps,
                history_guidance=self.guidance,
            ),
        ):
            yield


class NewestContext(InSequence):
    """The newest ``frames``; ``guidance`` is ω of v(∅) + ω·(v(H) − v(∅))."""


class PackedContext(InSequence):
    """The newest ``frames``, packed as the `FrameContext` says."""


class NoContext(InSequence):
    """Nothing of the past but the frame that the chunk begins with."""

    def __init__(self, context: FrameContext) -> None:
        super().__init__(context, 0)


class RetrievedContext(InSequence):
    """``frames`` that saw what the chunk's cameras will see, by their fields of view, the newest always among them.

    The chunk's latent frames take turns: each adds the best of its hits that is not there yet. Where views overlap with
    fewer, the newest others fill up, so that a batch has one shape. The turns and the filling are our reading.
    ``rule`` and ``select`` are those of `FOVRetriever`.
    """

    keeps: Keeps = "frames"

    def __init__(
        self,
        context: FrameContext,
        frames: int,
        rule: Literal["sector", "points", "rays"] = "sector",
        select: Literal["top", "non_adjacent", "cover"] = "top",
    ) -> None:
        super().__init__(context, frames)
        self.rule: Literal["sector", "points", "rays"] = rule
        self.select: Literal["top", "non_adjacent", "cover"] = select

    def choose(self, history: History, cameras: Cameras | None) -> Selection | None:
        if not len(history):
            return None
        known = history.cameras
        if known is None or cameras is None:
            raise InputError("Frames are retrieved by their cameras; give the history and the chunk theirs.")
        return history.take(
            torch.stack([self._rows(*each) for each in zip(_samples(known), _samples(cameras), strict=True)])
        )

    def _rows(self, known: Cameras, wanted: Cameras) -> Int[Tensor, " k"]:
        """Of one sample, in the order in which they were seen."""
        count = len(known.c2w)
        hits = FOVRetriever(known, self.rule, select=self.select)(_samples(wanted), k=self.frames)
        turns = chain.from_iterable(zip_longest(*(found.ids for found in hits)))
        found = [int(id) for id in turns if id is not None]
        rows = list(dict.fromkeys([count - 1, *found, *range(count - 1, -1, -1)]))[: self.frames]
        return torch.tensor(sorted(rows))


def _samples(cameras: Cameras) -> list[Cameras]:
    return [Cameras(*each) for each in zip(cameras.c2w, cameras.intrinsics, strict=True)]


class SeparateContext(ContextMethod):
    """The newest ``frames`` latent frames are context of a `QueryModule`, whose tokens the transformers see as memory.

    ``context`` carries the chunk's own cameras. A ``recorder`` records what the queries attend to, ``followed`` how
    much of the transformers' attention falls on their tokens.
    """

    def __init__(
        self,
        module: QueryModule,
        context: FrameContext,
        frames: int,
        recorder: AttentionRecorder | None = None,
        followed: AttentionRecorder | None = None,
    ) -> None:
        super().__init__(frames)
        self.module, self.context, self.recorder, self.followed = module, context, recorder, followed

    def fetch(self, given: ChunkInputs) -> Memory:
        """What the queries know at the end."""
        _clean(given)
        return self.module(
            given.noise,
            given.context,
            given.text,
            cameras=given.poses,
            context_cameras=given.context_poses,
            annotation=given.annotation,
            recorder=self.recorder,
        )

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], given: ChunkInputs) -> Iterator[None]:
        memory = self.fetch(given)
        with ExitStack() as stack:
            attached = stack.enter_context(self.context.attach(*transformers))
            stack.enter_context(attached.chunk(None, cameras=given.poses, annotation=given.annotation))
            stack.enter_context(SelfAttentionConcat(memory, recorder=self.followed).attach(*transformers))
            yield
