"""Cached keys and values, trained by teacher forcing with a curriculum (ReMind, arXiv 2605.25333)."""

from __future__ import annotations

import random
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from memkit.frame_graph.curriculum import (
    Compose,
    FrontierContinuation,
    NodeDrop,
    NoisyMemory,
    ReferenceCache,
    Transform,
)
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.node import Node, Role
from memkit.injectors.teacher_forcing.forcing import TeacherForcing
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.cache import CachedKeys
from memkit.probes.probe import Probe

ANCHORS = 2
"""Newest frames before an interruption that are kept: so many tell the rate of a process."""
GAP = (2, 10)
"""Latent frames from the newest anchor to the chunk, where all in between is removed."""


class TeacherForced(CachedKeys):
    """All frames of a clip learn at once, past frames too, each from the clean ones before it; without cameras.

    Gradients flow into what is read. Afterwards past frames are written to the cache one by one. Each of the further
    arguments is one part of ReMind's curriculum and turns it off with 0 or False. What changes is the training: what is
    shown is the same as in `CachedKeys`.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        probe: Probe[Any],
        node_drop: float = 0.3,
        noisy_memory: float = 0.5,
        frontier: bool = True,
        reference: float = 0.2,
    ) -> None:
        super().__init__(transformer, probe, cameras="off", at_once=1)
        parts: list[Transform] = [FrontierContinuation()] if frontier else []
        parts += [NodeDrop(node_drop)] if node_drop else []
        parts += [NoisyMemory(noisy_memory)] if noisy_memory else []
        self.reference, self._curriculum, self._far = reference, Compose(tuple(parts)), ReferenceCache(GAP)
        self._random = random.Random(0)

    def loss(
        self,
        transformer: WanTransformer3DModel,
        batch: ProbeBatch,
        noise: Float[Tensor, "batch channels frames height width"],
        sigma: Float[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        far = self._random.random() < self.reference
        graph = (self._far if far else self._curriculum)(frame_graph(batch), self._random)
        latents = torch.cat([batch.memory, batch.target], dim=2)[:, :, list(graph.sources())]
        before = torch.randn(latents[:, :, : -noise.shape[2]].shape).to(noise)
        noise = torch.cat([before, noise], dim=2)
        with TeacherForcing().attach(transformer) as attached, attached.chunk(graph, for_loss=True) as step:
            velocity = step.velocity(transformer, latents, noise, sigma, batch.text)
            return step.loss(velocity, latents, noise).mean()


def frame_graph(batch: ProbeBatch) -> FrameGraph:
    """A node per past frame and one for the chunk, which recovers after the frames that show nothing in any sample.

    The first frame is given, as in image-to-video. The newest frames that show something are anchors.
    """
    shown = batch.memory.abs().amax(dim=(0, 1, 3, 4)) > 0
    seen = [row for row in range(len(shown)) if shown[row]]
    nodes = [Node(time, 1, role=_role(row, seen), source=row) for row, time in enumerate(batch.memory_times)]
    nodes[0] = Node(batch.memory_times[0], 1, role="seed", conditioning_frames=1, source=0)
    chunk = Node(batch.times[0], len(batch.times), role="recovery", source=len(nodes))
    return FrameGraph((*nodes, chunk))


def _role(row: int, seen: list[int]) -> Role:
    if row not in seen:
        return "degraded"
    return "anchor" if row in seen[-ANCHORS:] else "plain"
