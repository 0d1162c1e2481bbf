"""What each transform may change, and that chance comes from the generator alone."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.frame_graph import (
    CleanMix,
    Compose,
    FrameGraph,
    FrontierContinuation,
    NodeDrop,
    NoisyMemory,
    ReferenceCache,
)
from memkit.frame_graph.curriculum import protected
from tests.helpers.random_graphs import graphs

seeds = st.integers(0, 2**32)
CLIP = FrameGraph.chunks(21, degraded=[(6, 12)], anchors=[(3, 6)])
ALL = (NodeDrop(), NoisyMemory(), FrontierContinuation(), ReferenceCache(), CleanMix(NodeDrop(p=1.0)))
STEP = CleanMix(Compose((FrontierContinuation(), NodeDrop(), NoisyMemory())))


def changed(graph, after, *names):
    """Indices of the nodes that differ; asserts that only the fields ``names`` do."""
    assert len(graph.nodes) == len(after.nodes)
    found = []
    for i, (x, y) in enumerate(zip(graph.nodes, after.nodes, strict=True)):
        fields = {name for name in vars(x) if getattr(x, name) != getattr(y, name)}
        assert fields <= set(names)
        found += [i] if fields else []
    return set(found)


@pytest.mark.parametrize("transform", [*ALL, STEP], ids=lambda t: type(t).__name__)
@given(seed=seeds)
@settings(deadline=None, max_examples=5)
def test_the_result_is_a_function_of_graph_and_generator(transform, seed):
    random.seed(seed)
    one, rng = transform(CLIP, random.Random(seed)), random.Random(seed)
    random.seed(seed + 1)
    assert transform(CLIP, rng) == one
    assert rng.getstate() != random.Random(seed).getstate()
    assert len({transform(CLIP, random.Random(s)) for s in range(30)}) > 1


@given(graphs(), seeds)
@settings(deadline=None, max_examples=40)
def test_anchors_the_first_and_the_newest_are_never_dropped_nor_noised(graph, seed):
    everything = Compose((NodeDrop(p=1.0, p_degraded=1.0), NoisyMemory(sigma_max=1.0)))
    after = everything(graph, random.Random(seed))
    touched = changed(graph, after, "dropped", "sigma")
    last = len(graph.nodes) - 1
    frontier = [i for i, n in enumerate(graph.nodes) if n.conditioning_frames == n.frames][-1:]
    safe = {0, last, *frontier, *(i for i, n in enumerate(graph.nodes) if n.role == "anchor")}
    assert protected(graph) == safe and not touched & safe
    assert all(after.nodes[i].dropped for i in range(last + 1) if i not in safe)


@given(graphs(disturbed=False), seeds)
@settings(deadline=None, max_examples=40)
def test_nothing_drops_at_0_and_noise_stays_below_its_most(graph, seed):
    assert NodeDrop(p=0.0, p_degraded=0.0)(graph, random.Random(seed)) == graph
    assert NoisyMemory(sigma_max=0.0)(graph, random.Random(seed)) == graph
    noisy = NoisyMemory(sigma_max=0.5)(graph, random.Random(seed))
    changed(graph, noisy, "sigma")
    assert all(0.0 <= node.sigma <= 0.5 for node in noisy.nodes)


def test_rates_are_those_asked_for_and_degraded_chunks_drop_more():
    rng, n = random.Random(0), 400
    drawn = [NodeDrop(p=0.3, p_degraded=0.6)(CLIP, rng).nodes for _ in range(n)]
    rate = [sum(nodes[i].dropped for nodes in drawn) / n for i in range(7)]
    assert rate == pytest.approx([0, 0, 0.6, 0.6, 0.3, 0.3, 0], abs=0.06)
    levels = [node.sigma for _ in range(n) for node in NoisyMemory(0.5)(CLIP, rng).nodes[2:6]]
    assert sum(levels) / len(levels) == pytest.approx(0.25, abs=0.03) and max(levels) > 0.45
    mixed = CleanMix(NodeDrop(p=1.0, p_degraded=1.0), p=0.25)
    assert sum(mixed(CLIP, rng) == CLIP for _ in range(n)) / n == pytest.approx(0.25, abs=0.06)


@given(graphs(), seeds, st.integers(1, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_a_frontier_parts_known_from_made_and_leaves_something_to_learn(graph, seed, least, more):
    learning = [i for i, n in enumerate(graph.nodes) if n.learns]
    recovering = [i for i in learning if graph.nodes[i].role == "recovery"]
    transform = FrontierContinuation(least, least + more)
    if max(recovering or learning, default=0) < least:
        with pytest.raises(InputError, match="FrontierContinuation"):
            transform(graph, random.Random(seed))
        return
    after = transform(graph, random.Random(seed))
    touched = changed(graph, after, "conditioning_frames")
    fits = [
        n
        for n in range(least, least + more + 1)
        if touched <= set(range(n)) and all(x.conditioning_frames == x.frames for x in after.nodes[:n])
    ]
    assert fits
    assert after.loss_mask().any()
    assert not recovering or any(n.learns and n.role == "recovery" for n in after.nodes)


def test_a_frontier_lies_anywhere_it_may():
    found = {FrontierContinuation()(CLIP, random.Random(s)).given().sum().item() for s in range(200)}
    assert found == {9, 12, 15, 18}  # known chunks and the degraded six
    newest = FrontierContinuation(2, 2)(CLIP, random.Random(0))
    assert protected(newest) == {0, 1, 6}


@given(graphs(), seeds, st.tuples(st.integers(3, 50), st.integers(0, 10)))
@settings(deadline=None, max_examples=40)
def test_a_reference_lies_a_gap_before_the_target_with_nothing_between(graph, seed, gap):
    transform = ReferenceCache(gap=(gap[0], sum(gap)))
    try:
        after = transform(graph, random.Random(seed))
    except InputError:
        anchors = [i for i, n in enumerate(graph.nodes) if n.role == "anchor"]
        first = min(anchors, default=0)
        later = [n for n in graph.nodes[first + 1 :] if n.learns and n.role != "anchor"]
        assert not later or graph.nodes[first].role == "degraded"
        return
    *references, target = after.nodes
    assert gap[0] <= target.time - references[-1].time <= sum(gap)
    assert target.learns and not any(node.learns for node in references)
    assert all(n.role == "anchor" and n.sigma == 0 and n.conditioning_frames == n.frames for n in references)
    assert after.loss_mask().tolist()[-target.frames :] == [
        k >= target.conditioning_frames for k in range(target.frames)
    ]
    for node in after.nodes:  # each still shows the frames, and has the camera, that it had
        assert any((x.shows, x.frames, x.camera) == (node.shows, node.frames, node.camera) for x in graph.nodes)
    assert all(any(x.time == n.time for x in graph.nodes) for n in references)
    names = [f"c{i}" for i in range(len(references))]
    assert after.visibility()[f"x{len(references)}"] == (*names, f"x{len(references)}")


def test_a_reference_cache_takes_anchors_and_aims_at_recovery():
    drawn = {ReferenceCache()(CLIP, random.Random(s)) for s in range(200)}
    assert {g.nodes[-1].shows for g in drawn} == {12, 15, 18}
    assert {g.nodes[-1].time - g.nodes[0].time for g in drawn} == set(range(40, 49))
    assert all(len(g.nodes) == 2 and g.sources()[:3] == (3, 4, 5) for g in drawn)


def test_several_references_keep_their_distance_and_the_newest_counts():
    clip = FrameGraph.chunks(12, anchors=[(0, 3), (6, 9)])
    drawn = {tuple(n.time for n in ReferenceCache((40, 40))(clip, random.Random(s)).nodes) for s in range(30)}
    assert drawn == {(0, 40), (0, 6, 46)}  # the target is the chunk at 3, or the one at 9


@pytest.mark.parametrize(
    ("graph", "transform", "says"),
    [
        (CLIP, ReferenceCache(gap=(2, 5)), "shorter"),
        (FrameGraph.chunks(3), ReferenceCache(), "No chunk"),
        (FrameGraph.chunks(9, conditioning_frames=9), ReferenceCache(), "No chunk"),
        (FrameGraph.chunks(9, degraded=[(0, 3)]), ReferenceCache(), "degraded"),
        (FrameGraph.chunks(9, conditioning_frames=9), FrontierContinuation(), "first 0 chunks"),
        (CLIP, FrontierContinuation(least=7), "first 6 chunks"),
    ],
)
def test_a_graph_that_does_not_serve_is_named(graph, transform, says):
    with pytest.raises(InputError, match=says):
        transform(graph, random.Random(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: NodeDrop(p=1.1),
        lambda: NodeDrop(p_degraded=-0.1),
        lambda: NoisyMemory(sigma_max=2.0),
        lambda: CleanMix(NodeDrop(), p=float("nan")),
        lambda: FrontierContinuation(least=0),
        lambda: FrontierContinuation(least=3, most=2),
        lambda: ReferenceCache(gap=(48, 40)),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


@given(graphs(), seeds)
@settings(deadline=None, max_examples=40)
def test_a_whole_curriculum_step_can_be_trained_on(graph, seed):
    recovering = any(n.learns and n.role == "recovery" for n in graph.nodes)
    targets = [i for i, n in enumerate(graph.nodes) if n.learns and (n.role == "recovery" or not recovering)]
    assume(targets and targets[-1] >= 1)
    after = STEP(graph, random.Random(seed))
    assert after.loss_mask().any()
    assert not recovering or any(n.learns and n.role == "recovery" for n in after.nodes)
    assert FrameGraph.from_dict(after.to_dict()) == after
