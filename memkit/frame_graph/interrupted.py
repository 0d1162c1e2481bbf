"""The frame graph of a clip whose view is hidden for a while, and the chunks of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from memkit.checks import MOST_FRAMES, check_list, check_whole
from memkit.errors import InputError
from memkit.frame_graph.graph import FrameGraph


def chunk_spans(frames: int, chunk: int, first: int | None = None) -> list[tuple[int, int]]:
    """The latent frames [start, stop) of each chunk of ``chunk`` frames; the first has ``first``, the last the rest.

    Raises `InputError` unless all are whole numbers of 1 or more.
    """
    for name, number in (("frames", frames), ("chunk", chunk), ("first", chunk if first is None else first)):
        check_whole(name, number, 1, MOST_FRAMES)
    starts = [0, *range(first or chunk, frames, chunk)]
    return list(zip(starts, [*starts[1:], frames], strict=True))


def interrupted_graph(
    frames: int,
    chunk: int,
    hidden: Sequence[int],
    *,
    first: int | None = None,
    conditioning_frames: int = 1,
    anchor: bool = True,
    cameras: bool = False,
) -> FrameGraph:
    """The graph of a clip of ``frames`` latent frames, of which those of ``hidden``, [start, stop), show no truth.

    The chunks from the one in which the interruption begins are degraded (ReMind, arXiv 2605.25333). A chunk in which
    it ends belongs to the recovery, and its hidden frames are conditioning frames. With ``anchor`` the last clean
    chunk before the interruption is an anchor. With ``cameras`` the chunks have cameras, see `FrameGraph.chunks`.

    Raises `InputError` for an interruption that is not within the clip, or that ends in the chunk in which it begins,
    or, with ``anchor``, begins in the first; and as `FrameGraph.chunks` does.
    """
    spans, given = chunk_spans(frames, chunk, first), check_list("hidden", hidden, "two latent frames: [start, stop)")
    for number in given:
        check_whole("A number of hidden", number, 0, MOST_FRAMES)
    if len(given) != 2 or not given[0] < given[1] <= frames:
        raise InputError(f"hidden is {given}; give [start, stop) within the {frames} latent frames of the clip.")
    start, stop = given
    begins = next(i for i, (a, b) in enumerate(spans) if a <= start < b)
    ends = max((b for a, b in spans if b <= stop), default=0)
    if ends <= spans[begins][0] or (anchor and begins == 0):
        raise InputError(
            f"The interruption [{start}, {stop}) ends in the chunk in which it begins, or leaves no chunk before it "
            "for an anchor; make it longer, or begin it later."
        )
    graph = FrameGraph.chunks(
        frames,
        chunk,
        degraded=[(spans[begins][0], ends)],
        anchors=[spans[begins - 1]] if anchor else (),
        first=first,
        conditioning_frames=conditioning_frames,
        cameras=cameras,
    )
    return FrameGraph(
        tuple(
            replace(node, conditioning_frames=max(node.conditioning_frames, stop - node.time))
            if node.time < stop < node.stop
            else node
            for node in graph.nodes
        )
    )
