"""What a frame graph promises: nobody sees the future or what is dropped, and loss falls on what is made."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.attention import grouped_attention
from memkit.errors import InputError
from memkit.frame_graph import FrameGraph, Node, draw_graph
from tests.helpers.random_graphs import graphs


def frame_rows(graph):
    """(stream, chunk, time) of each frame of [clean | noisy], from the nodes alone."""
    return [(s, i, n.time + k) for s in "cx" for i, n in enumerate(graph.nodes) for k in range(n.frames)]


@given(graphs())
@settings(deadline=None, max_examples=40)
def test_each_frame_sees_its_own_chunk_and_of_the_past_what_memory_keeps(graph):
    rows = frame_rows(graph)
    seen = graph.visible(tokens=1)
    assert seen.shape == (len(rows), len(rows)) == (2 * graph.num_frames,) * 2
    for q, (stream, chunk, time) in enumerate(rows):
        for k, (key_stream, key_chunk, key_time) in enumerate(rows):
            own = (stream, chunk) == (key_stream, key_chunk)
            past = key_time < time and key_chunk != chunk
            kept = key_stream == "c" and not graph.nodes[key_chunk].dropped
            assert bool(seen[q, k]) == (own or (past and kept)), (rows[q], rows[k])


@given(graphs(max_chunks=4), st.integers(1, 2))
@settings(deadline=None, max_examples=40)
def test_the_table_equals_a_dense_softmax_under_the_matrix(graph, tokens):
    generator = torch.Generator().manual_seed(0)
    length = 2 * graph.num_frames * tokens
    q, k, v = (torch.randn(2, length, 2, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(4)
    logits = logits.masked_fill(~graph.visible(tokens), -torch.inf)
    want = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v)

    sizes = graph.groups(tokens)
    q, k, v = (dict(zip(sizes, x.split(list(sizes.values()), 1), strict=True)) for x in (q, k, v))
    out = grouped_attention(q, {name: (k[name], v[name]) for name in sizes}, graph.visibility())
    torch.testing.assert_close(torch.cat([out[name] for name in sizes], 1), want)


@given(graphs())
@settings(deadline=None, max_examples=40)
def test_through_any_number_of_layers_a_dropped_chunk_reaches_only_itself(graph):
    seen = graph.visible()
    reach = torch.linalg.matrix_power(seen.double(), len(seen)) > 0
    for i, node in enumerate(graph.nodes):
        if node.dropped:
            assert reach[:, i].nonzero().flatten().tolist() == [i]
        noisy = len(graph.nodes) + i
        assert reach[:, noisy].nonzero().flatten().tolist() == [noisy]


@given(graphs(), st.floats(0.1, 1.0))
@settings(deadline=None, max_examples=40)
def test_loss_falls_on_frames_that_are_made_and_only_those_carry_noise(graph, sigma):
    made = [n.role != "degraded" and k >= n.conditioning_frames for n in graph.nodes for k in range(n.frames)]
    levels, steps = graph.noise_levels(sigma), graph.timesteps(sigma)
    assert ((levels.noisy > 0).tolist(), (~graph.given()).tolist()) == (made, made)
    assert (levels.noisy[torch.tensor(made)] == torch.tensor(sigma)).all()
    assert levels.clean.tolist() == [n.sigma for n in graph.nodes for _ in range(n.frames)]
    for level, step in zip(levels, steps, strict=True):
        assert torch.equal(step, 1000 * level) and step.dtype == torch.float32
    assert any(node.learns for node in graph.nodes) == any(made)
    if any(made):
        assert graph.loss_mask().tolist() == made
    else:
        with pytest.raises(InputError, match="none carries loss"):
            graph.loss_mask()


def test_each_chunk_may_have_its_own_noise_level():
    graph = FrameGraph.chunks(6, conditioning_frames=1)
    assert graph.noise_levels([0.5, 1.0]).noisy.tolist() == [0, 0.5, 0.5, 1, 1, 1]
    for wrong in ([0.5], [0.5, 1.5], [0.5, -0.1], float("nan")):
        with pytest.raises(InputError, match="one for each of 2 chunks"):
            graph.noise_levels(wrong)


@given(graphs())
@settings(deadline=None, max_examples=40)
def test_positions_sources_and_cameras_count_on_within_a_chunk(graph):
    positions, sources, cameras = graph.positions(), graph.sources(), graph.cameras()
    assert positions == tuple(sorted(set(positions)))
    assert list(positions) * 2 == [time for _, _, time in frame_rows(graph)]  # the same in both streams
    start = 0
    for node in graph.nodes:
        for k in range(node.frames):
            assert positions[start + k] == node.time + k
            assert sources[start + k] == (node.time if node.source is None else node.source) + k
            assert cameras[start + k] == (None if node.camera is None else node.camera + k)
        start += node.frames


@given(graphs())
@settings(deadline=None, max_examples=40)
def test_json_and_back(graph):
    assert FrameGraph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph


def test_json_has_the_keys_of_files_written_before():
    node = {"time": 3, "frames": 2, "camera": 1, "role": "seed", "sigma": 0.5, "dropped": True, "known": 1, "source": 0}
    graph = FrameGraph((Node(3, 2, 1, "seed", 0.5, True, 1, 0),))
    assert graph.to_dict() == {"nodes": [node]} and FrameGraph.from_dict({"nodes": [node]}) == graph


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"nodes": []},
        {"nodes": [{"frames": 3}]},
        {"nodes": [{"time": 0, "colour": "red"}]},
        {"nodes": [{"time": 0.5}]},
        {"nodes": [{"time": 0, "role": "hero"}]},
        {"nodes": [{"time": 0, "dropped": 1}]},
        {"nodes": [{"time": 0, "sigma": "0"}]},
        {"nodes": [{"time": 0}], "version": 2},
        {"nodes": ["time"]},
    ],
)
def test_other_content_is_refused(content):
    with pytest.raises(InputError):
        FrameGraph.from_dict(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"frames": 0}, "frames"),
        ({"conditioning_frames": True}, "conditioning_frames"),
        ({"conditioning_frames": 4}, "4 conditioning frames of 3"),
        ({"camera": -1}, "camera"),
        ({"source": -1}, "source"),
        ({"sigma": 1.5}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"role": "seed"}, "seed"),
        ({"role": "anchor", "dropped": True}, "anchor"),
        ({"role": "anchor", "sigma": 0.1}, "anchor"),
    ],
)
def test_a_chunk_that_cannot_be_is_named(change, says):
    with pytest.raises(InputError, match=says):
        replace(Node(0), **change)


@pytest.mark.parametrize("times", [(0, 2), (3, 0), (0, 0)])
def test_chunks_neither_overlap_nor_run_backwards(times):
    with pytest.raises(InputError, match="temporal order"):
        FrameGraph(tuple(Node(time) for time in times))


def test_a_moved_chunk_before_time_0_must_say_what_it_shows():
    with pytest.raises(InputError, match="source"):
        FrameGraph((Node(-9),)).sources()


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.integers(0, 30))
@settings(deadline=None, max_examples=40)
def test_a_clip_is_cut_without_rest(num_frames, chunk, first, given):
    fits = first <= num_frames and (num_frames - first) % chunk == 0 and given <= num_frames
    if not fits:
        with pytest.raises(InputError):
            FrameGraph.chunks(num_frames, chunk, first, given)
        return
    graph = FrameGraph.chunks(num_frames, chunk, first, given, cameras=True)
    assert graph.positions() == graph.sources() == graph.cameras() == tuple(range(num_frames))
    assert [n.frames for n in graph.nodes] == [first] + [chunk] * ((num_frames - first) // chunk)
    assert graph.given().tolist() == [frame < given for frame in range(num_frames)]
    assert [n.role for n in graph.nodes] == ["seed" if n.time < given else "plain" for n in graph.nodes]


def test_roles_follow_from_intervals():
    graph = FrameGraph.chunks(21, conditioning_frames=6, degraded=[(7, 10)], anchors=[(3, 4)])
    assert [n.role for n in graph.nodes] == ["seed", "anchor", "degraded", "degraded", *["recovery"] * 3]
    assert [n.conditioning_frames for n in graph.nodes] == [3, 3, 0, 0, 0, 0, 0]
    graph = FrameGraph.chunks(21, degraded=[(6, 9)], recovery=[(9, 12)])
    assert [n.role for n in graph.nodes] == ["seed", "plain", "degraded", "recovery", "plain", "plain", "plain"]


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ({"degraded": [(18, 21)]}, "recovers"),
        ({"degraded": [(6, 22)]}, "degraded names"),
        ({"anchors": [(4, 4)]}, "anchors names"),
        ({"degraded": [(6, 8)], "anchors": [(8, 9)]}, "both"),
    ],
)
def test_intervals_that_cannot_be_are_named(spans, says):
    with pytest.raises(InputError, match=says):
        FrameGraph.chunks(21, **spans)


def test_the_remedy_for_a_rest_is_true():
    with pytest.raises(InputError, match="first=1"):
        FrameGraph.chunks(13)
    assert len(FrameGraph.chunks(13, first=1).nodes) == 5


def test_a_picture_shows_what_changed(tmp_path):
    pytest.importorskip("matplotlib")
    graph = FrameGraph.chunks(9)
    one = draw_graph(graph, tmp_path / "a.png").read_bytes()
    hidden = FrameGraph((graph.nodes[0], replace(graph.nodes[1], dropped=True), graph.nodes[2]))
    assert one.startswith(b"\x89PNG")
    assert draw_graph(graph, tmp_path / "b.png").read_bytes() == one
    assert draw_graph(hidden, tmp_path / "c.png").read_bytes() != one
