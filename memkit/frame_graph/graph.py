"""`FrameGraph`: the chunks of a clip as data: the time, role and visibility of each, and which frames carry loss.

A node is one chunk of latent frames. Under teacher forcing a model reads two streams of the same chunks, [clean |
noisy]: cᵢ is memory, xᵢ is denoised. The graph gives what such a step needs: the visibility table, noise level,
timestep and position per frame, and the frames that carry loss (ReMind, arXiv 2605.25333; its schema is not published,
so this one is our reading). Curricula are functions graph -> graph: see ``memkit.frame_graph.curriculum``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_list, check_room, check_whole, is_number, shown
from memkit.display import MOST_ROWS, counted, described, html_table, with_shapes
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.frame_graph.node import Node, Role

Spans = Sequence[tuple[int, int]]
"""Half-open intervals [start, stop) of latent frames."""

MOST_CHUNKS = 4096
"""The largest number of chunks of a graph, whose visibility has a row for each in either stream."""


class Streams(NamedTuple):
    """One number per frame in each of the two streams."""

    clean: Float[Tensor, " frames"]
    noisy: Float[Tensor, " frames"]

    __repr__ = with_shapes


@dataclass(frozen=True)
class FrameGraph:
    """Chunks in temporal order. One graph serves all samples of a batch: they share one visibility table.

    Both streams hold the frames of all nodes in order, so the token sequence is [clean | noisy], F frames each.
    Groups of tokens are named ``c0 … cn`` in the clean stream and ``x0 … xn`` in the noisy one.

    Raises `InputError` where there is no chunk or more than `MOST_CHUNKS`, or chunks overlap or are not in temporal
    order.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, tuple) or not all(isinstance(node, Node) for node in self.nodes):
            raise InputError(f"The nodes of a frame graph are {shown(self.nodes)}; give a tuple of Node.")
        if not self.nodes:
            raise InputError("A frame graph needs at least one chunk.")
        check_whole("The length of a frame graph", len(self.nodes), 1, MOST_CHUNKS, "chunks")
        check_whole("The length of a frame graph", self.num_frames, 1, MOST_FRAMES, "latent frames")
        for before, after in zip(self.nodes, self.nodes[1:], strict=False):
            if after.time < before.stop:
                raise InputError(
                    f"The chunk at {after.time} begins before the one at {before.time} ends ({before.stop}); "
                    "give chunks in temporal order, without overlap."
                )

    def __repr__(self) -> str:
        roles = [f"{count} {role}" for role, count in Counter(node.role for node in self.nodes).items()]
        dropped = sum(node.dropped for node in self.nodes)
        facts = [counted(len(self.nodes), "chunk"), counted(self.num_frames, "frame"), *roles]
        return described(self, *facts, f"{dropped} dropped" if dropped else "")

    def _repr_html_(self) -> str:
        """Which chunks each chunk attends to; of a long graph, its first chunks."""
        nodes, sees = self.nodes[:MOST_ROWS], self.visibility()
        keys = [f"{stream}{i}" for stream in "cx" for i in range(len(nodes))]
        rows = []
        for i, name in enumerate(keys):
            node = nodes[i % len(nodes)]
            role = f"{node.role}, dropped" if node.dropped else node.role
            rows.append(
                [name, f"{node.time}…{node.stop - 1}", role, *("●" if key in sees[name] else "" for key in keys)]
            )
        caption = f"{self!r}: rows attend to the marked columns; c is clean, x is noisy"
        more = 2 * (len(self.nodes) - len(nodes))
        return html_table(caption, ["chunk", "frames", "role", *keys], rows, more=more)

    @classmethod
    def chunks(
        cls,
        num_frames: int,
        chunk: int = 3,
        first: int | None = None,
        conditioning_frames: int = 1,
        degraded: Spans = (),
        anchors: Spans = (),
        recovery: Spans | None = None,
        cameras: bool = False,
    ) -> FrameGraph:
        """A clip cut in chunks. ReMind: 21 latent frames, chunks of 3.

        A chunk is degraded if any of its frames is; else an anchor if any of its frames is; else a seed if any of its
        frames is a conditioning frame; else recovery or plain.

        Args:
            num_frames: latent frames of the clip.
            chunk: latent frames per chunk; ``first``: of the first one, where it differs (1 for 13 = 1 + 4·3).
            conditioning_frames: latent frames given at the start: 1 is image-to-video, 6 is video-to-video, 0 is text
                alone.
            degraded: intervals of latent frames in which the scene is hidden.
            anchors: intervals of latent frames to be kept in memory.
            recovery: intervals of latent frames after an interruption; None: all that follows the first degraded one.
            cameras: whether each latent frame has a camera, with the same index.

        Raises:
            InputError: the clip cannot be cut so, an interval is not within it, a chunk is both anchor and degraded, or
                no chunk recovers (give ``recovery=()`` where that is intended).
        """
        check_whole("num_frames", num_frames, 1, MOST_FRAMES)
        check_whole("chunk", chunk, 1, MOST_FRAMES)
        if first is not None:
            check_whole("first", first, 1, MOST_FRAMES)
        check_whole("conditioning_frames", conditioning_frames, 0, MOST_FRAMES)
        check_whole("The length of a frame graph", num_frames // chunk, 0, MOST_CHUNKS, "chunks")
        cuts = _cuts(num_frames, chunk, chunk if first is None else first)
        if not 0 <= conditioning_frames <= num_frames:
            raise InputError(f"{conditioning_frames} conditioning frames of {num_frames}; give 0 to {num_frames}.")
        for name, spans in (("degraded", degraded), ("anchors", anchors), ("recovery", recovery or ())):
            _check_spans(name, spans, num_frames)
        after = recovery
        if after is None:
            after = [(min(a for a, _ in degraded), num_frames)] if degraded else []

        def role(start: int, stop: int) -> Role:
            if _touches(degraded, start, stop):
                if _touches(anchors, start, stop):
                    raise InputError(f"The chunk of frames {start} to {stop - 1} is both degraded and an anchor.")
                return "degraded"
            if _touches(anchors, start, stop):
                return "anchor"
            if start < conditioning_frames:
                return "seed"
            return "recovery" if _touches(after, start, stop) else "plain"

        nodes = tuple(
            Node(
                time=start,
                frames=stop - start,
                camera=start if cameras else None,
                role=role(start, stop),
                conditioning_frames=min(max(conditioning_frames - start, 0), stop - start),
            )
            for start, stop in cuts
        )
        if degraded and recovery is None and all(node.role != "recovery" for node in nodes):
            raise InputError(
                f"No chunk of {num_frames} frames recovers after {list(degraded)}; end it earlier, or give recovery=()."
            )
        return cls(nodes)

    @property
    def num_frames(self) -> int:
        """F: latent frames of each stream."""
        return sum(node.frames for node in self.nodes)

    def groups(self, tokens: int = 1) -> dict[str, int]:
        """Number of tokens in each group, in the order of the sequence [clean | noisy]; ``tokens`` per frame."""
        check_whole("tokens", tokens, 1)
        return {f"{s}{i}": node.frames * tokens for s in "cx" for i, node in enumerate(self.nodes)}

    def visibility(self) -> dict[str, tuple[str, ...]]:
        """The groups that each group attends to, as ``memkit.attention.grouped_attention`` takes them.

        cᵢ sees c≤ᵢ; xᵢ sees c<ᵢ and itself; dropped chunks are left out of both. The row of a dropped cᵢ still holds
        itself, so that no query is without keys: no other chunk reads it, so nothing leaks, and its output is unused.
        """
        table: dict[str, tuple[str, ...]] = {}
        for stream in "cx":
            for i in range(len(self.nodes)):
                past = (f"c{j}" for j, node in enumerate(self.nodes[:i]) if not node.dropped)
                table[f"{stream}{i}"] = (*past, f"{stream}{i}")
        return table

    def visible(self, tokens: int | None = None) -> Bool[Tensor, "queries keys"]:
        """`visibility` as a matrix over [clean | noisy], True where the query (row) sees the key.

        ``tokens`` is their number per frame, so 1 gives one row per frame; without it there is one row per chunk.
        """
        table = self.visibility()
        matrix = torch.tensor([[key in table[query] for key in table] for query in table])
        if tokens is None:
            return matrix
        side = 2 * self.num_frames * tokens
        check_room(f"A visibility matrix of {side:,} tokens", side**2)
        sizes = torch.tensor(list(self.groups(tokens).values()))
        return matrix.repeat_interleave(sizes, dim=0).repeat_interleave(sizes, dim=1)

    def positions(self) -> tuple[int, ...]:
        """The position of each frame, the same in both streams: ascending integers, with gaps."""
        return self._each_frame(lambda node, k: node.time + k)

    def sources(self) -> tuple[int, ...]:
        """The clip's latent frame that each frame shows: the streams hold ``latents[:, :, graph.sources()]``.

        Raises `InputError` for a chunk before time 0 without a source.
        """
        return self._each_frame(lambda node, k: node.shows + k)

    def cameras(self) -> tuple[int | None, ...]:
        """The index of each frame's camera, None where unknown."""
        return self._each_frame(lambda node, k: None if node.camera is None else node.camera + k)

    def given(self) -> Bool[Tensor, " frames"]:
        """True for conditioning frames and degraded ones. The noisy stream shows them without noise."""
        return torch.tensor(self._each_frame(lambda node, k: node.role == "degraded" or k < node.conditioning_frames))

    def loss_mask(self) -> Bool[Tensor, " frames"]:
        """True where a frame of the noisy stream carries loss: neither a conditioning frame nor degraded.

        Raises `InputError` where none does.
        """
        mask = ~self.given()
        if not mask.any():
            raise InputError(
                "Every frame is a conditioning frame or degraded, so none carries loss; leave one to generate."
            )
        return mask

    def noise_levels(self, sigma: float | Sequence[float]) -> Streams:
        """σ in [0, 1] of each frame, float32.

        The clean stream has each chunk's own (0 unless memory is noised). The noisy one has ``sigma``, one level or one
        per chunk, and 0 where a frame is `given`.

        Raises `InputError` for a level outside [0, 1] or a wrong number of levels.
        """
        levels = list(sigma) if isinstance(sigma, Sequence) else [sigma] * len(self.nodes)
        if len(levels) != len(self.nodes) or not all(is_number(x) and 0.0 <= x <= 1.0 for x in levels):
            raise InputError(
                f"Give one noise level in [0, 1], or one for each of {len(self.nodes)} chunks; not {shown(sigma)}."
            )
        sizes = torch.tensor([node.frames for node in self.nodes])
        clean = torch.tensor([node.sigma for node in self.nodes], dtype=torch.float32).repeat_interleave(sizes)
        noisy = torch.tensor(levels, dtype=torch.float32).repeat_interleave(sizes)
        return Streams(clean, noisy.masked_fill(self.given(), 0.0))

    def timesteps(self, sigma: float | Sequence[float]) -> Streams:
        """t = 1000·σ of each frame, float32; arguments and errors are those of `noise_levels`."""
        return Streams(*(NUM_TRAIN_TIMESTEPS * levels for levels in self.noise_levels(sigma)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {"nodes": [node.to_dict() for node in self.nodes]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FrameGraph:
        """The inverse of `to_dict`. Raises `InputError` for any other content."""
        if not isinstance(content, Mapping) or set(content) != {"nodes"} or not isinstance(content["nodes"], Sequence):
            raise InputError(f"A frame graph is {{'nodes': [...]}}, not {shown(content)}.")
        return cls(tuple(Node.from_dict(item) for item in content["nodes"]))

    def _each_frame(self, value: Callable[[Node, int], Any]) -> tuple[Any, ...]:
        return tuple(value(node, k) for node in self.nodes for k in range(node.frames))


def _cuts(num_frames: int, chunk: int, first: int) -> list[tuple[int, int]]:
    if min(num_frames, chunk, first) < 1 or first > num_frames or (num_frames - first) % chunk:
        rest = num_frames % chunk if chunk > 0 else 0
        remedy = f" first={rest} would." if rest else ""
        raise InputError(
            f"{num_frames} latent frames are not a first chunk of {first} and whole chunks of {chunk}.{remedy}"
        )
    starts = [0, *range(first, num_frames, chunk)]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def _check_spans(name: str, spans: Spans, num_frames: int) -> None:
    for span in check_list(name, spans, "intervals (start, stop)"):
        if not isinstance(span, tuple | list) or len(span) != 2:
            raise InputError(f"{name} names {shown(span)}; give intervals (start, stop) of latent frames.")
        start, stop = span
        for number in span:
            check_whole(f"A number of {name}", number, -MOST_FRAMES, MOST_FRAMES)
        if not 0 <= start < stop <= num_frames:
            raise InputError(
                f"{name} names frames [{start}, {stop}); give 0 ≤ start < stop ≤ {num_frames}, the clip's frames."
            )


def _touches(spans: Spans, start: int, stop: int) -> bool:
    return any(a < stop and start < b for a, b in spans)
