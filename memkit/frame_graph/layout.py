"""`StreamLayout`: which chunks of a graph's two streams a forward pass computes, and the order of their tokens."""

from __future__ import annotations

from dataclasses import dataclass

from memkit.frame_graph.graph import FrameGraph


@dataclass(frozen=True)
class StreamLayout:
    """Chunks of [clean | noisy] in the order of the graph's own groups; see `FrameGraph.groups`."""

    graph: FrameGraph
    names: tuple[str, ...]
    """``c0 … cn`` and ``x0 … xn``, or some of them."""

    @classmethod
    def of(cls, graph: FrameGraph, for_loss: bool) -> StreamLayout:
        """`for_loss` or `whole`."""
        return cls.for_loss(graph) if for_loss else cls.whole(graph)

    @classmethod
    def whole(cls, graph: FrameGraph) -> StreamLayout:
        """All chunks of both streams."""
        return cls(graph, tuple(graph.groups()))

    @classmethod
    def for_loss(cls, graph: FrameGraph) -> StreamLayout:
        """The noisy chunks that carry loss, and the clean ones that these see.

        What is left out does not affect any frame that carries loss. Raises `InputError` where no frame does.
        """
        mask, table = graph.loss_mask().split([node.frames for node in graph.nodes]), graph.visibility()
        lossy = [f"x{i}" for i, frames in enumerate(mask) if frames.any()]
        seen = {name for query in lossy for name in table[query]}  # visibility is transitive: these see nothing more
        return cls(graph, tuple(name for name in table if name in seen))

    def groups(self, tokens: int = 1) -> dict[str, int]:
        """Number of tokens of each chunk that is computed, in order; ``tokens`` per frame."""
        sizes = self.graph.groups(tokens)
        return {name: sizes[name] for name in self.names}

    def visibility(self) -> dict[str, tuple[str, ...]]:
        """Visibility among the chunks that are computed; see `FrameGraph.visibility`."""
        table = self.graph.visibility()
        return {name: table[name] for name in self.names}

    def frames(self, stream: str) -> list[int]:
        """Indices of the frames of the clean ("c") or noisy ("x") stream that are computed."""
        numbers = range(self.graph.num_frames)
        return [n for n, name in zip(numbers, self._names(stream), strict=True) if name in self.names]

    def _names(self, stream: str) -> list[str]:
        return [f"{stream}{i}" for i, node in enumerate(self.graph.nodes) for _ in range(node.frames)]
