"""How a chunk of a long video sees its past: MemLearner and its baselines under one interface.

    LearnedContext     query tokens inside the model gather it (MemLearner, arXiv 2606.31734)
    RetrievedContext   frames whose views overlap the chunk's (Context-as-Memory, arXiv 2506.03141)
    NewestContext      the newest frames, with history guidance (DFoT, arXiv 2502.06764)
    PackedContext      a long past with fewer tokens for older frames (FramePack, arXiv 2504.12626)
    SeparateContext    query tokens of a module beside the model (MemLearner's failure case)
    NoContext          no past, only cameras

A method chooses frames of a `History` and shows them to the transformers while they generate the chunk. It is a module:
its parameters are those that it trains in addition to the backbone's.
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
from memkit.checks import check_choice, check_scale
from memkit.errors import InputError
from memkit.injectors.attention_recorder import AttentionRecorder
from memkit.injectors.frame_context.context import FrameContext
from memkit.injectors.query_layers.chunk import QueryChunk
from memkit.injectors.query_layers.layers import QueryLayers
from memkit.injectors.query_module.module import QueryModule
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory
from memkit.retrievers.fov import RULES, SELECTIONS, FOVRetriever
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


def _refuse_noisy(inputs: ChunkInputs) -> None:
    if inputs.context_timesteps is not None:
        raise InputError("Queries read clean context; noisy frames are for methods with frames in sequence.")


class LearnedContext(ContextMethod):
    """The newest ``frames`` latent frames are the context of the query layers; nine chunks in the paper.

    A ``recorder`` records what the queries attend to.
    """

    def __init__(self, query: QueryLayers, frames: int, recorder: AttentionRecorder | None = None) -> None:
        super().__init__(frames)
        self.query, self.recorder = query, recorder
        self._chunk: QueryChunk | None = None

    @property
    def fetched(self) -> Float[Tensor, "batch channels frames height width"] | None:
        """Inside ``shown``, after a call: the latents that the queries hold, as the model's last layer reads them.

        At timestep 0 the best prediction of the velocity, noise − latents, is −latents, so this is the negative of the
        model's output for the queries. The paper discards it; compared with the chunk's latents, it trains queries to
        gather what the chunk needs. Raises `InputError` for queries at another timestep.
        """
        if self.query.config.query_time != "clean":
            raise InputError('Only queries at timestep 0 say what they hold; set query_time="clean".')
        velocity = None if self._chunk is None else self._chunk.query_velocity
        return None if velocity is None else -velocity

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], inputs: ChunkInputs) -> Iterator[None]:
        _refuse_noisy(inputs)
        start = inputs.noise if self.query.config.query == "noise" else None
        with (
            self.query.attach(*transformers) as attached,
            attached.chunk(
                inputs.context,
                start,
                cameras=inputs.poses,
                context_cameras=inputs.context_poses,
                annotation=inputs.annotation,
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

    Raises `InputError` for another method, for queries at a timestep other than 0, and if the model was not called
    inside ``shown``.
    """
    fetched = method.fetched if isinstance(method, LearnedContext) else None
    if fetched is None:
        raise InputError("The queries hold nothing yet; call the model inside LearnedContext.shown().")
    return (fetched.float() - latents).pow(2).mean()


class InSequence(ContextMethod):
    """Context frames in the sequence beside the chunk's; the base of the methods that use a `FrameContext`."""

    def __init__(self, context: FrameContext, frames: int, guidance: float = 1.0) -> None:
        super().__init__(frames)
        check_scale("guidance", guidance)
        self.context, self.guidance = context, guidance

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], inputs: ChunkInputs) -> Iterator[None]:
        with (
            self.context.attach(*transformers) as attached,
            attached.chunk(
                inputs.context,
                cameras=inputs.poses,
                context_cameras=inputs.context_poses,
                annotation=inputs.annotation,
                context_timesteps=inputs.context_timesteps,
                history_guidance=self.guidance,
            ),
        ):
            yield


class NewestContext(InSequence):
    """The newest ``frames``; ``guidance`` is ω of v(∅) + ω·(v(H) − v(∅))."""


class PackedContext(InSequence):
    """The newest ``frames``, packed as the `FrameContext` says."""


class NoContext(InSequence):
    """No past but the frame that the chunk begins with."""

    def __init__(self, context: FrameContext) -> None:
        super().__init__(context, 0)


class RetrievedContext(InSequence):
    """The ``frames`` whose fields of view overlap those of the chunk's cameras, always with the newest among them.

    The chunk's latent frames take turns: each adds the best of its hits that is not selected yet. If fewer frames
    overlap, the newest others fill up, so that a batch has one shape. The turns and the filling are our reading.
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
        for name, value, choices in (("rule", rule, RULES), ("select", select, SELECTIONS)):
            check_choice(name, value, choices)
        self.rule: Literal["sector", "points", "rays"] = rule
        self.select: Literal["top", "non_adjacent", "cover"] = select

    def choose(self, history: History, cameras: Cameras | None) -> Selection | None:
        if not len(history):
            return None
        past = history.cameras
        if past is None or cameras is None:
            raise InputError("Frames are retrieved by their cameras; give cameras to both the history and the chunk.")
        return history.take(
            torch.stack([self._rows(*each) for each in zip(_samples(past), _samples(cameras), strict=True)])
        )

    def _rows(self, past: Cameras, wanted: Cameras) -> Int[Tensor, " k"]:
        """Rows of one sample, in temporal order."""
        count = len(past.c2w)
        hits = FOVRetriever(past, self.rule, select=self.select)(_samples(wanted), k=self.frames)
        turns = chain.from_iterable(zip_longest(*(found.ids for found in hits)))
        found = [int(id) for id in turns if id is not None]
        rows = list(dict.fromkeys([count - 1, *found, *range(count - 1, -1, -1)]))[: self.frames]
        return torch.tensor(sorted(rows))


def _samples(cameras: Cameras) -> list[Cameras]:
    return [Cameras(*each) for each in zip(cameras.c2w, cameras.intrinsics, strict=True)]


class SeparateContext(ContextMethod):
    """The newest ``frames`` latent frames are context of a `QueryModule`, whose tokens the transformers see as memory.

    ``context`` adds the chunk's own cameras. A ``recorder`` records what the queries attend to, ``followed`` how
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

    def fetch(self, inputs: ChunkInputs) -> Memory:
        """What the queries know at the end."""
        _refuse_noisy(inputs)
        return self.module(
            inputs.noise,
            inputs.context,
            inputs.text,
            cameras=inputs.poses,
            context_cameras=inputs.context_poses,
            annotation=inputs.annotation,
            recorder=self.recorder,
        )

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], inputs: ChunkInputs) -> Iterator[None]:
        memory = self.fetch(inputs)
        with ExitStack() as stack:
            attached = stack.enter_context(self.context.attach(*transformers))
            stack.enter_context(attached.chunk(None, cameras=inputs.poses, annotation=inputs.annotation))
            stack.enter_context(SelfAttentionConcat(memory, recorder=self.followed).attach(*transformers))
            yield
