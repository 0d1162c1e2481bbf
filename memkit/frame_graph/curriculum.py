"""Curricula for training with memory: functions graph -> graph that hide, noise or move what a model remembers.

Each is a frozen dataclass, called with a graph and a ``random.Random``: the result is a function of the graph and the
state of the generator alone. Draw again at each step, from the clip's own graph. ReMind (arXiv 2605.25333) names these
transforms but publishes no rates: the defaults are our reading, each a setting.

    curriculum = CleanMix(Compose((FrontierContinuation(), NodeDrop(), NoisyMemory())))
    graph = curriculum(FrameGraph.chunks(21, degraded=[(6, 12)]), rng)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from memkit.checks import MOST_FRAMES, check_fields, check_list, shown
from memkit.errors import InputError
from memkit.frame_graph.graph import MOST_CHUNKS, FrameGraph

Transform = Callable[[FrameGraph, random.Random], FrameGraph]
"""graph -> graph, at random."""


def protected(graph: FrameGraph) -> frozenset[int]:
    """Indices of the chunks that are neither dropped nor noised: anchors, the first, and the newest.

    The newest are the last chunk of all and the last that consists of conditioning frames, where a continuation starts.
    """
    anchors = {i for i, node in enumerate(graph.nodes) if node.role == "anchor"}
    given = [i for i, node in enumerate(graph.nodes) if node.conditioning_frames == node.frames]
    return frozenset({0, len(graph.nodes) - 1, *anchors, *given[-1:]})


@dataclass(frozen=True)
class NodeDrop:
    """Drops each unprotected chunk from memory with probability ``p``, a degraded one with ``p_degraded``."""

    p: float = 0.3
    p_degraded: float = 0.6

    def __post_init__(self) -> None:
        check_fields(self, p=(0, 1), p_degraded=(0, 1))

    def __call__(self, graph: FrameGraph, rng: random.Random) -> FrameGraph:
        """The graph with more chunks dropped; those already dropped stay so. One draw per chunk."""
        safe = protected(graph)
        nodes = []
        for i, node in enumerate(graph.nodes):
            hit = rng.random() < (self.p_degraded if node.role == "degraded" else self.p)
            nodes.append(replace(node, dropped=True) if hit and i not in safe else node)
        return FrameGraph(tuple(nodes))


@dataclass(frozen=True)
class NoisyMemory:
    """Gives each unprotected chunk of the clean stream a noise level σ ~ U(0, ``sigma_max``), with its timestep."""

    sigma_max: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self, sigma_max=(0, 1))

    def __call__(self, graph: FrameGraph, rng: random.Random) -> FrameGraph:
        """The graph with new noise levels; protected chunks keep theirs. One draw per chunk."""
        safe = protected(graph)
        levels = [rng.random() * self.sigma_max for _ in graph.nodes]
        return FrameGraph(
            tuple(
                node if i in safe else replace(node, sigma=level)
                for i, (node, level) in enumerate(zip(graph.nodes, levels, strict=True))
            )
        )


@dataclass(frozen=True)
class FrontierContinuation:
    """Gives the first n chunks as conditioning, n uniform from ``least`` to ``most``: the model predicts what follows.

    At least one chunk with loss stays behind this frontier: one of recovery, where the graph has any. Apply it before
    `NodeDrop` and `NoisyMemory`, which protect the chunk at the frontier.
    """

    least: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, least=(1, MOST_CHUNKS), most=(1, MOST_CHUNKS))
        if self.most is not None and self.most < self.least:
            raise InputError(f"FrontierContinuation from {self.least} to {self.most} chunks; give 1 ≤ least ≤ most.")

    def __call__(self, graph: FrameGraph, rng: random.Random) -> FrameGraph:
        """The graph with its first n chunks as conditioning. Raises `InputError` where fewer than ``least`` can be."""
        limit = max(_targets(graph), default=0)
        if limit < self.least:
            raise InputError(
                f"Only the first {limit} chunks can be conditioning if one is to carry loss; FrontierContinuation "
                f"needs {self.least}. Give a longer clip or a smaller least."
            )
        n = rng.randint(self.least, limit if self.most is None else min(self.most, limit))
        given = [replace(node, conditioning_frames=node.frames) for node in graph.nodes[:n]]
        return FrameGraph((*given, *graph.nodes[n:]))


@dataclass(frozen=True)
class ReferenceCache:
    """Places one chunk to predict long after clean references, with nothing between.

    The target is drawn from the chunks that carry loss and come after a reference: from those of recovery, where there
    are any. References are the anchors before it; in a graph without anchors, the first chunk. All their frames become
    conditioning and they keep their times; the target moves to ``gap`` latent frames after the start of the newest of
    them, uniform from the first to the second number. All other chunks are removed; ``FrameGraph.sources`` says which
    frames are left.
    """

    gap: tuple[int, int] = (40, 48)

    def __post_init__(self) -> None:
        check_fields(self, gap=(1, MOST_FRAMES))
        if self.gap[0] > self.gap[1]:
            raise InputError(f"ReferenceCache.gap is {self.gap}; give two integers, 1 ≤ least ≤ most.")

    def __call__(self, graph: FrameGraph, rng: random.Random) -> FrameGraph:
        """The references and the target. Raises `InputError` without either, or with a gap shorter than a reference."""
        anchors = [i for i, node in enumerate(graph.nodes) if node.role == "anchor"] or [0]
        choices = [i for i in _targets(graph, after=anchors[0]) if graph.nodes[i].role != "anchor"]
        if not choices:
            raise InputError("No chunk that carries loss follows a reference; mark an earlier chunk as anchor.")
        if graph.nodes[anchors[0]].role == "degraded":
            raise InputError("The first chunk is degraded, so it is no reference; mark another as anchor.")
        target, gap = rng.choice(choices), rng.randint(*self.gap)
        references = [graph.nodes[i] for i in anchors if i < target]
        if self.gap[0] < references[-1].frames:
            raise InputError(
                f"A gap of {self.gap[0]} latent frames is shorter than a reference of {references[-1].frames}."
            )
        clean = {"role": "anchor", "sigma": 0.0, "dropped": False}
        kept = [replace(x, conditioning_frames=x.frames, source=x.shows, **clean) for x in references]
        aim = graph.nodes[target]
        return FrameGraph((*kept, replace(aim, time=kept[-1].time + gap, dropped=False, source=aim.shows)))


@dataclass(frozen=True)
class Compose:
    """One transform after the other, in order, with one generator."""

    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        for transform in check_list("Compose.transforms", self.transforms, "transforms"):
            _check_transform("Compose.transforms", transform)

    def __call__(self, graph: FrameGraph, rng: random.Random) -> FrameGraph:
        """The graph after the last transform."""
        for transform in self.transforms:
            graph = transform(graph, rng)
        return graph


@dataclass(frozen=True)
class CleanMix:
    """Leaves the graph as it is with probability ``p``, against forgetting; otherwise applies ``transform``."""

    transform: Transform
    p: float = 0.25

    def __post_init__(self) -> None:
        check_fields(self, p=(0, 1))
        _check_transform("CleanMix.transform", self.transform)

    def __call__(self, graph: FrameGraph, rng: random.Random) -> FrameGraph:
        """The graph itself, or the transformed one."""
        return graph if rng.random() < self.p else self.transform(graph, rng)


def _targets(graph: FrameGraph, after: int = -1) -> list[int]:
    """Chunks that carry loss, past the index ``after``: those of recovery, where there are any, else all."""
    learning = [i for i, node in enumerate(graph.nodes) if node.learns and i > after]
    return [i for i in learning if graph.nodes[i].role == "recovery"] or learning


def _check_transform(name: str, value: object) -> None:
    if not callable(value):
        raise InputError(f"{name} has {shown(value)}; give functions of a graph and a random.Random.")
