"""Batches of training: one frame graph per step, and clips that are interrupted where the graph says."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras import Cameras
from memkit.flow import shift_sigma
from memkit.frame_graph import (
    Compose,
    FrameGraph,
    FrontierContinuation,
    NodeDrop,
    NoisyMemory,
    ReferenceCache,
    Transform,
    interrupted_graph,
)
from memkit.training import generator_of
from recipes.remind.presets import Config
from recipes.remind.records import ClipBank, Record, chunk_spans, twin_of

Hidden = tuple[int, int] | None
"""Latent frames [start, stop) in which the view is hidden; None for undisturbed clips."""


@dataclass(frozen=True)
class Batch:
    """One frame graph, and one clip per sample with the graph's frames."""

    graph: FrameGraph
    ids: list[str]
    captions: list[list[str]]
    """Per sample, one caption per chunk of the graph."""
    latents: Float[Tensor, "batch channels frames height width"]
    cameras: Cameras
    """Cameras [batch, latent frames of the whole clip]."""
    noise: Float[Tensor, "batch channels frames height width"]
    memory_noise: Float[Tensor, "batch channels frames height width"]
    sigma: Float[Tensor, "batch chunks"]


class TrainingSet(ClipBank):
    """Batches of a bank. A batch depends on the seed and the step only, so that a run can resume at any step and
    several processes can split it."""

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        """The samples of one process in the batch of a step; the whole batch depends only on the number of samples."""
        config, whole = self.config, self.config.batch * processes
        shared = random.Random(f"{config.seed}/{step}")
        hidden = self._hidden(shared)
        graph = sample_graph(config, hidden, shared)
        rngs = [random.Random(f"{config.seed}/{step}/{place}") for place in range(rank, whole, processes)]
        names = [rng.choice(list(self.records) if hidden is None else self.by_hidden[hidden]) for rng in rngs]
        ids = [twin_of(name) if hidden is None else name for name in names]
        latents, cameras = self.load(ids)
        latents = latents[:, :, list(graph.sources())]
        offsets = [shared.random() for _ in graph.nodes]
        levels = [
            [((rank + i * processes + rng.random()) / whole + offset) % 1.0 for offset in offsets]
            for i, rng in enumerate(rngs)
        ]
        noise = [torch.randn(2, *latents[0].shape, generator=generator_of(rng)) for rng in rngs]
        captions = [
            [""] * len(graph.nodes)
            if rng.random() < config.drop_text
            else chunk_captions(config, self.records[name], graph, hidden is not None)
            for name, rng in zip(names, rngs, strict=True)
        ]
        return Batch(
            graph=graph,
            ids=ids,
            captions=captions,
            latents=latents,
            cameras=cameras,
            noise=torch.stack(noise)[:, 0],
            memory_noise=torch.stack(noise)[:, 1],
            sigma=shift_sigma(torch.tensor(levels), config.shift),
        )

    def _hidden(self, rng: random.Random) -> Hidden:
        """The hidden frames of a step, drawn in proportion to their clips; None for an undisturbed step."""
        if rng.random() < self.config.undisturbed_prob:
            return None
        spans = sorted(self.by_hidden)
        return rng.choices(spans, [len(self.by_hidden[span]) for span in spans])[0]


def clip_graph(config: Config, hidden: Hidden, conditioning_frames: int | None = None) -> FrameGraph:
    """The graph of a whole clip before any random transform."""
    count = config.conditioning_frames if conditioning_frames is None else conditioning_frames
    shared = {"first": config.first, "conditioning_frames": count, "cameras": True}
    if hidden is None:
        return FrameGraph.chunks(config.latents, config.chunk, **shared)
    return interrupted_graph(config.latents, config.chunk, hidden, anchor=config.anchor, **shared)


def curriculum(config: Config) -> Transform:
    """The transforms of a disturbed step without reference cache, except for those that are switched off."""
    parts: list[Transform] = [FrontierContinuation()] if config.frontier else []
    if config.node_drop > 0:
        parts.append(NodeDrop(config.node_drop, config.node_drop_degraded))
    if config.noisy_memory > 0:
        parts.append(NoisyMemory(config.noisy_memory))
    return Compose(tuple(parts))


def sample_graph(config: Config, hidden: Hidden, rng: random.Random) -> FrameGraph:
    """The graph of a step. An undisturbed step is drawn with its clips, the twins, instead of by `CleanMix`."""
    graph = clip_graph(config, hidden)
    if hidden is None:
        return graph
    return (ReferenceCache() if rng.random() < config.reference else curriculum(config))(graph, rng)


def chunk_captions(config: Config, record: Record, graph: FrameGraph, interrupted: bool) -> list[str]:
    """One caption per chunk of the graph, which may leave chunks of the clip out."""
    if not interrupted:
        return [record.twin_caption] * len(graph.nodes)
    index = {start: i for i, (start, _) in enumerate(chunk_spans(config))}
    return [record.captions[index[node.shows]] for node in graph.nodes]
