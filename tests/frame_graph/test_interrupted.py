"""The graph of a clip that is hidden for a while: roles, what is given, and what carries loss."""

from __future__ import annotations

from memkit.frame_graph import FrameGraph, chunk_spans, interrupted_graph


def test_chunks_cover_a_clip() -> None:
    assert chunk_spans(13, 3, 1) == [(0, 1), (1, 4), (4, 7), (7, 10), (10, 13)]
    assert chunk_spans(7, 3) == [(0, 3), (3, 6), (6, 7)] and chunk_spans(2, 3) == [(0, 2)]


def test_a_graph_says_what_is_given_and_what_is_learned() -> None:
    graph = interrupted_graph(13, 3, (4, 10), first=1)
    assert [node.role for node in graph.nodes] == ["seed", "anchor", "degraded", "degraded", "recovery"]
    assert graph.loss_mask().tolist() == [False, True, True, True, *[False] * 6, True, True, True]
    assert "anchor" not in [node.role for node in interrupted_graph(13, 3, (4, 10), first=1, anchor=False).nodes]


def test_an_end_within_a_chunk_is_given_and_the_rest_of_it_recovered() -> None:
    graph = interrupted_graph(13, 3, (5, 8), first=1)
    assert [node.role for node in graph.nodes] == ["seed", "anchor", "degraded", "recovery", "recovery"]
    assert graph.loss_mask().tolist() == [False, True, True, True, *[False] * 4, *[True] * 5]
    whole = FrameGraph.chunks(13, 3, first=1, degraded=[(4, 7)], anchors=[(1, 4)])
    assert [node for node in graph.nodes if node.time != 7] == [node for node in whole.nodes if node.time != 7]
