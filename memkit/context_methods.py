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

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, zip_longest
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.history import History, Taken
from memkit.injectors import FrameContext, QueryLayers, QueryModule, QueryMonitor, SelfAttentionConcat, pose_numbers
from memkit.retrievers import FOVRetriever

Keeps = Literal["chunks", "frames"]
"""What a history is to hold for a method: the latents of chunks as they were made, or of single frames, each encoded
alone, which can be shown in any order."""


class ContextMethod(nn.Module, ABC):
    """What all have in common: they remember ``frames`` latent frames at most."""

    keeps: Keeps = "chunks"

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def choose(self, history: History, cameras: Cameras) -> Taken | None:
        """Frames of a history for a chunk with these cameras [B,F], the newest; None for none."""
        count = min(self.frames, len(history))
        return history.take(history.newest(count)) if count else None

    @abstractmethod
    @contextmanager
    def shown(
        self,
        *transformers: nn.Module,
        taken: Taken | None,
        cameras: Cameras,
        noise: Float[Tensor, "batch channels frames height width"],
        text: Float[Tensor, "batch words text_dim"],
    ) -> Iterator[None]:
        """Inside, the transformers make the chunk with ``cameras`` [B,F] from what was chosen.

        ``noise`` is what queries start from, drawn once a chunk; ``text`` the embeddings of its prompts.
        """


def relative_poses(cameras: Cameras, taken: Taken | None) -> tuple[Tensor, Tensor | None]:
    """Poses of a chunk's frames [B,F,12] and of its context's [B,k,12], from the chunk's first camera; float32."""
    own = cameras.c2w.double()
    past = [] if taken is None or taken.cameras is None else [taken.cameras.c2w.to(own)]
    poses = pose_numbers(torch.cat([own, *past], dim=1)).float()
    frames = own.shape[1]
    return poses[:, :frames], poses[:, frames:] if past else None


class LearnedContext(ContextMethod):
    """The newest ``frames`` latent frames are context of the query layers; the paper: nine chunks.

    A ``monitor`` records what the queries attend to.
    """

    def __init__(self, query: QueryLayers, frames: int, monitor: QueryMonitor | None = None) -> None:
        super().__init__(frames)
        self.query, self.monitor = query, monitor

    @contextmanager
    def shown(self, *transformers, taken, cameras, noise, text):
        own, past = relative_poses(cameras, taken)
        latents = None if taken is None else taken.latents
        start = noise if self.query.config.query == "noise" else None
        with (
            self.query.attach(*transformers) as attached,
            attached.chunk(latents, start, cameras=own, context_cameras=past, monitor=self.monitor),
        ):
            yield


class _InSequence(ContextMethod):
    """Frames beside those of the chunk."""

    def __init__(self, context: FrameContext, frames: int, guidance: float | int = 1.0) -> None:
        super().__init__(frames)
        self.context, self.guidance = context, guidance

    @contextmanager
    def shown(self, *transformers, taken, cameras, noise, text):
        own, past = relative_poses(cameras, taken)
        latents = None if taken is None else taken.latents
        given = {"cameras": own, "context_cameras": past, "history_guidance": self.guidance}
        with self.context.attach(*transformers) as attached, attached.chunk(latents, **given):
            yield


class NewestContext(_InSequence):
    """The newest ``frames``; ``guidance`` is ω of v(∅) + ω·(v(H) − v(∅))."""


class PackedContext(_InSequence):
    """The newest ``frames``, packed as the `FrameContext` says."""


class NoContext(_InSequence):
    """Nothing of the past but the frame that the chunk begins with."""

    def __init__(self, context: FrameContext) -> None:
        super().__init__(context, 0)


class RetrievedContext(_InSequence):
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

    def choose(self, history: History, cameras: Cameras) -> Taken | None:
        if not len(history):
            return None
        known = history.cameras
        if known is None:
            raise InputError("The history has no cameras, by which frames are retrieved; add frames with theirs.")
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

    ``context`` carries the chunk's own cameras.
    """

    def __init__(self, module: QueryModule, context: FrameContext, frames: int, monitor: QueryMonitor | None = None):
        super().__init__(frames)
        self.module, self.context, self.monitor = module, context, monitor

    @contextmanager
    def shown(self, *transformers, taken, cameras, noise, text):
        own, past = relative_poses(cameras, taken)
        latents = None if taken is None else taken.latents
        memory = self.module(noise, latents, text, cameras=own, context_cameras=past, monitor=self.monitor)
        with ExitStack() as stack:
            attached = stack.enter_context(self.context.attach(*transformers))
            stack.enter_context(attached.chunk(None, cameras=own))
            stack.enter_context(SelfAttentionConcat(memory).attach(*transformers))
            yield
