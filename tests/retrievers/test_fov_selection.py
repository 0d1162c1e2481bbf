"""Which of the frames that overlap a view are taken, and input that cannot be used."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.retrievers import FOVRetriever, Hits, Points, Rays, Sector
from memkit.retrievers.fov_select import cover, one_per_run
from memkit.testing import check_retriever
from tests.helpers.fov_cameras import (
    FEW,
    RULES,
    angle,
    cameras,
    circle,
    one,
)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_top_hits_are_the_most_overlapping_frames(rule):
    places = circle() + [(0.3 * i, 2, 0, -0.4) for i in range(9)]
    ids = [f"frame{i}" for i in range(len(places))]
    retriever = FOVRetriever(cameras(places), rule, ids=ids, sources=[f"film{i % 3}" for i in range(len(ids))])
    overlap = retriever.overlap(one()).tolist()
    order = sorted((i for i in range(len(ids)) if overlap[i] > 0), key=lambda i: -overlap[i])
    assert retriever(one(), 99) == Hits([ids[i] for i in order], [overlap[i] for i in order])
    assert retriever(one(), 2).ids == [ids[i] for i in order][:2]
    left = [i for i in order if ids[i] != ids[order[0]] and i % 3]
    assert retriever(one(), 3, exclude=[ids[order[0]]], exclude_sources=["film0"]).ids == [ids[i] for i in left][:3]
    both = retriever([one(), one(yaw=1)], 4, exclude=[[], [ids[order[1]]]])
    assert both == [retriever(one(), 4), retriever(one(yaw=1), 4, exclude=[ids[order[1]]])]
    assert retriever(one(z=500, x=500)).ids == []


SELECTIONS = [(rule, select) for rule in ("sector", "points", "rays") for select in ("top", "non_adjacent", "cover")]


@pytest.mark.parametrize(("rule", "select"), SELECTIONS[:-1])  # rays have no area to cover
def test_it_has_the_properties_of_a_retriever(rule, select):
    places = circle() + [(0.3 * i, 2, 0, -0.4) for i in range(9)]
    sources = {str(i): f"film{i % 3}" for i in range(len(places))}
    retriever = FOVRetriever(cameras(places), RULES[rule], sources=list(sources.values()), select=select)
    queries = [one(), one(yaw=1), one(0.5, 2, 0, -0.3)]
    check_retriever(retriever, queries, sources=sources, ranks=select == "top", examples=6)


def test_overlaps_under_the_threshold_are_no_hits():
    retriever = FOVRetriever(cameras(circle()), min_overlap=0.3)
    overlap = retriever.overlap(one())
    assert (overlap > 0).sum() > (overlap >= 0.3).sum() == len(retriever(one(), 99).ids) > 0


def test_recency_prefers_the_newer_of_equal_views():
    cams = cameras([(0, 0, 0, 0), (0, 0, 0, math.pi), (0, 0, 0, 0.02), (0, 0, 0, 0)])
    assert FOVRetriever(cams)(one()).ids == ["0", "3", "2"]
    hits = FOVRetriever(cams, recency=0.2)(one())
    assert hits.ids == ["3", "2", "0"]
    assert (hits.scores[0], hits.scores[2]) == (pytest.approx(1 - 0.2 / 4), pytest.approx(1 - 0.2))
    assert FOVRetriever(cams, recency=0.2, select="cover")(one()).ids[0] == "3"


@pytest.mark.parametrize("pick", ["best", "random"])
@settings(max_examples=6, deadline=None)
@given(yaw=angle, seed=st.integers(0, 99), k=st.integers(1, 9), gone=st.sets(st.integers(0, 71)))
def test_non_adjacent_takes_one_frame_of_a_run(pick, yaw, seed, k, gone):
    cams, exclude = cameras(circle(3)), [str(i) for i in gone]
    everything = {int(id) for id in FOVRetriever(cams)(one(yaw=yaw), 99, exclude=exclude).ids}
    runs = [sorted(everything)[:1]] if everything else []
    for i in sorted(everything)[1:]:
        runs[-1].append(i) if i - 1 in everything else runs.append([i])
    retriever = FOVRetriever(cams, select="non_adjacent", pick=pick, seed=seed)
    hits = retriever(one(yaw=yaw), k, exclude=exclude)
    taken = [next(j for j, run in enumerate(runs) if int(id) in run) for id in hits.ids]
    assert len(set(taken)) == len(taken) == min(k, len(runs))
    assert hits.scores == sorted(hits.scores, reverse=True)
    overlap = retriever.overlap(one(yaw=yaw)).tolist()
    assert hits.scores == [overlap[int(id)] for id in hits.ids]
    if pick == "best":
        assert [overlap[int(id)] for id in hits.ids] == [max(overlap[i] for i in runs[j]) for j in taken]
    assert retriever([one(), one(yaw=yaw)], k, exclude=[[], exclude])[1] == hits


def test_a_random_pick_follows_its_seed_and_favours_no_frame():
    frames, scores = np.array([2, 3, 4, 9, 10]), np.ones(5)
    drawn = [one_per_run(frames, scores, 2, np.random.default_rng(seed)).tolist() for seed in range(600)]
    assert all(sorted(place > 2 for place in places) == [False, True] for places in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=5)
    assert abs(counts[:3] - 200).max() < 60 and abs(counts[3:] - 300).max() < 60
    assert abs(sum(places[0] > 2 for places in drawn) - 300) < 60
    assert one_per_run(frames, np.array([0.1, 0.5, 0.5, 0.2, 0.9]), 5, None).tolist() == [4, 1]


@pytest.mark.parametrize("rule", ["sector", "trapezoid", "points"])
def test_cover_never_counts_an_area_twice(rule):
    places = circle() + [(0.5, 0, 0, 0.2), (1, 1, 0, -0.5)]
    retriever = FOVRetriever(cameras(places), RULES[rule], select="cover")
    query = one(yaw=0.07)
    hits = retriever(query, 99)
    asked = retriever.rule.views(Cameras(query.c2w[None], query.intrinsics[None]))
    seen = retriever.rule.views(cameras(places)).seen(asked, torch.tensor([int(id) for id in hits.ids]))
    before = torch.zeros(seen.shape[1], dtype=torch.bool)
    for frame, score in zip(seen, hits.scores, strict=True):
        assert score == pytest.approx((frame & ~before).double().mean().item()) and score > 0
        before |= frame
    assert hits.scores == sorted(hits.scores, reverse=True)
    assert sum(hits.scores) <= 1 + 1e-9 and sum(hits.scores) > 0.97  # frames all around see everything
    assert not {int(id) + 24 for id in hits.ids} & {int(id) for id in hits.ids}  # the second turn adds nothing
    assert hits.ids[0] == "0"
    assert retriever(query, 2) == Hits(hits.ids[:2], hits.scores[:2])
    assert all(score >= 0.2 for score in FOVRetriever(cameras(places), select="cover", min_overlap=0.2)(query, 99)[1])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(0, 12), k=st.integers(1, 8), least=st.sampled_from([0.0, 0.1]))
def test_cover_is_greedy(seed, n, k, least):
    rng = np.random.default_rng(seed)
    seen, late = rng.random((20, n)) < 0.3, rng.random(n) * 0.2
    left, expected = np.ones(20, bool), []
    for _ in range(k):
        adds = seen[left].sum(0) / 20
        able = [i for i in range(n) if adds[i] > 0 and adds[i] >= least]
        if not able:
            break
        expected.append(max(able, key=lambda i: adds[i] - late[i]))
        left &= ~seen[:, expected[-1]]
    assert cover(seen, late, k, least)[0].tolist() == expected


def test_a_memory_that_is_still_empty_answers_with_nothing():
    nothing = Cameras(torch.zeros(0, 4, 4), torch.zeros(0, 4))
    for rule in RULES.values():
        for select in ("top", "non_adjacent", "cover")[: 2 if isinstance(rule, Rays) else 3]:
            retriever = FOVRetriever(nothing, rule, select=select)
            assert retriever(one()) == Hits([], []) and len(retriever.overlap(one())) == 0


def test_half_precision_cameras_are_taken():
    cams = cameras(circle())
    half = Cameras(cams.c2w.half(), cams.intrinsics.half())
    for rule in (Sector(), FEW):
        asked, exact = FOVRetriever(half, rule).overlap(one()), FOVRetriever(cams, rule).overlap(one())
        torch.testing.assert_close(asked, exact, rtol=0, atol=0.02)


def test_bad_input_is_named():
    cams = cameras(circle())
    with pytest.raises(InputError, match="0 ≤ near < far"):
        Sector(near=3, far=2)
    with pytest.raises(InputError, match="from the same position"):
        Rays(near=0.0)
    with pytest.raises(InputError, match="at least 1 point"):
        Points(count=0)
    with pytest.raises(InputError, match="upward direction"):
        FOVRetriever(cams, Sector(up=(0, 0, 0)))
    with pytest.raises(InputError, match="View 0 looks straight"):
        FOVRetriever(cams, Sector(up=(1, 0, 0)))
    with pytest.raises(InputError, match="no area"):
        FOVRetriever(cams, "rays", select="cover")
    with pytest.raises(InputError, match="min_overlap is 2"):
        FOVRetriever(cams, min_overlap=2)
    with pytest.raises(InputError, match="recency -1"):
        FOVRetriever(cams, recency=-1)
    with pytest.raises(InputError, match="'0' occurs twice"):
        FOVRetriever(cams, ids=["0"] * 48)
    with pytest.raises(InputError, match="3 ids"):
        FOVRetriever(cams, ids=["a", "b", "c"])
    with pytest.raises(InputError, match="one pose per frame"):
        FOVRetriever(one())
    with pytest.raises(InputError, match="the query: c2w .* one camera"):
        FOVRetriever(cams)(cams)
    with pytest.raises(InputError, match="query 1: the pose is not a rigid"):
        FOVRetriever(cams)([one(), Cameras(one().c2w * math.nan, one().intrinsics)])
    with pytest.raises(InputError, match="none of 1 points"):
        FOVRetriever(cams, Points(count=1, near=9.99))(one())


@pytest.mark.parametrize("spoil", ["scaled", "mirrored", "last row", "nan", "focal"])
def test_cameras_that_are_none_are_named(spoil):
    cams = cameras(circle())
    if spoil == "scaled":
        cams.c2w[5, :3, :3] *= 1.1
    elif spoil == "mirrored":
        cams.c2w[5, :3, 0] *= -1
    elif spoil == "last row":
        cams.c2w[5, 3, 3] = 2.0
    elif spoil == "nan":
        cams.c2w[5, 0, 3] = torch.nan
    else:
        cams.intrinsics[5, 1] = 0
    with pytest.raises(InputError, match="camera 5" if spoil == "focal" else "pose 5"):
        FOVRetriever(cams)
