"""Retrieval by field of view: known overlaps, invariances, what walls hide, and which frames are taken."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.retrievers import FOVRetriever, Hits, Points, Rays, Sector, View
from memkit.retrievers.fov_index import DiscIndex
from memkit.retrievers.fov_select import cover, one_a_run
from memkit.worlds import Scene, body, render

FOV = 50.0
FEW = Points(count=3000)
RULES = {"sector": Sector(), "trapezoid": Sector(near=1.5), "points": FEW, "rays": Rays()}

metres = st.floats(-8, 8)
angle = st.floats(-math.pi, math.pi)
poses = st.tuples(metres, metres, metres, angle)
many_poses = st.lists(poses, min_size=1, max_size=12)


def cameras(places, fov=FOV):
    """Upright cameras at (x, y, z, yaw), yaw in radians from +x to the left."""
    x, y, z, yaw = torch.tensor(places, dtype=torch.float64).view(-1, 4).T
    eye = torch.stack([x, y, z], -1)
    looking = Cameras.look_at(eye, eye + torch.stack([yaw.cos(), yaw.sin(), 0 * yaw], -1), fov)
    return Cameras(looking.c2w, looking.intrinsics.clone())


def one(x=0.0, y=0.0, z=0.0, yaw=0.0, fov=FOV):
    all_of_it = cameras([(x, y, z, yaw)], fov)
    return Cameras(all_of_it.c2w[0], all_of_it.intrinsics[0])


def moved(cams, motion):
    return Cameras(motion @ cams.c2w, cams.intrinsics)


def rigid(axis_angle, shift):
    motion = torch.eye(4, dtype=torch.float64)
    x, y, z = axis_angle
    motion[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    motion[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    return motion


def share(frame, query, rule="sector", **given):
    return FOVRetriever(Cameras(frame.c2w[None], frame.intrinsics[None]), rule, **given).overlap(query).item()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(max_examples=6, deadline=None)
@given(places=many_poses)
def test_a_view_overlaps_itself_wholly_and_nothing_behind_it(rule, places):
    cams = cameras(places)
    retriever = FOVRetriever(cams, rule)
    for i, (x, y, z, yaw) in enumerate(places):
        overlap = retriever.overlap(Cameras(cams.c2w[i], cams.intrinsics[i]))
        assert overlap[i].item() == pytest.approx(1, abs=1e-9)
        assert ((overlap >= 0) & (overlap <= 1)).all()
        assert retriever.overlap(one(x, y, z, yaw + math.pi))[i] == 0


@settings(max_examples=15, deadline=None)
@given(fov=st.floats(20, 140), turn=st.floats(0.001, 0.999), start=angle)
def test_a_turned_sector_overlaps_by_the_known_area(fov, turn, start):
    half = math.atan(0.5 / one(fov=fov).intrinsics[0].item())  # look_at rounds the focal length to float32
    psi = 2 * half * turn
    known = (math.tan(half - psi) + math.tan(psi / 2)) / math.tan(half)
    for yaw in (start + psi, start - psi):
        assert share(one(yaw=yaw, fov=fov), one(yaw=start, fov=fov)) == pytest.approx(known, abs=1e-8)
    assert share(one(yaw=start + 2 * half + 0.01, fov=fov), one(yaw=start, fov=fov)) == 0


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(0, 9.9), yaw=angle)
def test_a_shifted_sector_overlaps_by_the_known_area(shift, yaw):
    focal = one().intrinsics[0].item()
    ahead = one(shift * math.cos(yaw), shift * math.sin(yaw), 3.0, yaw)
    aside = one(shift * math.sin(yaw), -shift * math.cos(yaw), -1.0, yaw)
    assert share(ahead, one(yaw=yaw)) == pytest.approx((1 - shift / 10) ** 2, abs=1e-8)
    assert share(aside, one(yaw=yaw)) == pytest.approx(max(0, 1 - shift * focal / 10) ** 2, abs=1e-8)


@pytest.mark.parametrize("rule", ["sector", "trapezoid", "points"])
@settings(max_examples=6, deadline=None)
@given(fov=st.floats(30, 120), start=angle)
def test_overlap_falls_as_yaw_turns(rule, fov, start):
    turns = torch.linspace(0, 1, 12).double() * math.radians(fov)
    for sign in (1, -1):
        turned = cameras([(0, 0, 0, start + sign * turn) for turn in turns.tolist()], fov)
        overlap = FOVRetriever(turned, RULES[rule]).overlap(one(yaw=start, fov=fov))
        assert (overlap.diff() < 0).all() and overlap[0] == pytest.approx(1) and overlap[-1] < 1e-3


def test_points_give_the_share_of_the_solid_angle():
    def solid(fov):
        return math.asin(math.sin(math.radians(fov) / 2) ** 2)

    got = share(one(fov=40.0), one(fov=80.0), Points(count=200_000))
    assert got == pytest.approx(solid(40) / solid(80), abs=0.01)


def test_points_see_pitch_and_height_and_sectors_do_not():
    eye = torch.tensor([[0.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    to = torch.tensor([[1, 0, 0], [1, 0, -0.5], [1, 0, -3]], dtype=torch.float64)
    pitched = Cameras.look_at(eye, to, FOV)
    higher = one(z=4.0)
    assert (FOVRetriever(pitched).overlap(one()) - 1).abs().max() < 1e-9 and share(higher, one()) == pytest.approx(1)
    overlap = FOVRetriever(pitched, FEW).overlap(one())
    assert overlap[0] == 1 and 0.2 < overlap[1] < 0.8 and overlap[2] == 0 and 0.02 < share(higher, one(), FEW) < 0.8


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(max_examples=6, deadline=None)
@given(places=many_poses, query=poses, yaw=angle, shift=st.tuples(metres, metres, metres))
def test_a_common_motion_that_keeps_up_changes_nothing(rule, places, query, yaw, shift):
    motion, cams = rigid((0, 0, yaw), shift), cameras(places)
    before = FOVRetriever(cams, rule).overlap(one(*query))
    after = FOVRetriever(moved(cams, motion), rule).overlap(moved(one(*query), motion))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-7)


@settings(max_examples=6, deadline=None)
@given(places=many_poses, query=poses, turn=st.tuples(angle, angle, angle), shift=st.tuples(metres, metres, metres))
def test_any_common_motion_changes_nothing_where_up_moves_too(places, query, turn, shift):
    motion, cams = rigid(turn, shift), cameras(places)
    up = tuple(motion[:3, 2].tolist())
    for rule, again in ((FEW, FEW), (Sector(), Sector(up=up)), (Rays(), Rays(up=up))):
        before = FOVRetriever(cams, rule).overlap(one(*query))
        after = FOVRetriever(moved(cams, motion), again).overlap(moved(one(*query), motion))
        torch.testing.assert_close(before, after, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rule", ["sector", "trapezoid", "rays"])
@settings(max_examples=15, deadline=None)
@given(a=poses, b=poses)
def test_views_of_equal_intrinsics_overlap_each_other_alike(rule, a, b):
    assert share(one(*a), one(*b), RULES[rule]) == pytest.approx(share(one(*b), one(*a), RULES[rule]), abs=1e-7)


def test_points_are_symmetric_up_to_their_sampling():
    rule = Points(count=100_000)
    for a in ((1.0, 2.0, 0.5, 0.3), (4.0, -3.0, 0.0, 1.5), (2.0, 0.0, 0.0, -0.4)):
        assert share(one(*a), one(), rule) == pytest.approx(share(one(), one(*a), rule), abs=4 * 0.5 / 4000**0.5)
        assert share(one(*a), one(), rule) > 0.05


@settings(max_examples=15, deadline=None)
@given(
    a=poses, b=poses, intrinsics=st.tuples(*[st.floats(0.3, 2)] * 2, *[st.floats(0.1, 0.9)] * 2), near=st.floats(0, 5)
)
def test_area_is_that_of_points_on_the_ground(a, b, intrinsics, near):
    rule, query = Sector(near=near), one(*a)
    frame = Cameras(one(*b).c2w[None], torch.tensor([intrinsics], dtype=torch.float64))
    views, asked = rule.views(frame), rule.views(Cameras(query.c2w[None], query.intrinsics[None]))
    counted = views.seen(asked, torch.tensor([0]), count=4000).double().mean().item()
    assert FOVRetriever(frame, rule).overlap(query).item() == pytest.approx(counted, abs=0.01)


def test_rays_meet_as_context_as_memory_asks():
    ahead = math.pi / 2
    toed_in = one(-2, 0, 0, ahead - 0.35), one(2, 0, 0, ahead + 0.35)
    assert share(*toed_in, Rays()) == 1
    assert share(*toed_in, Rays(far=2)) == 0 and share(*toed_in, Rays(near=9)) == 0
    assert share(one(-1, 0, 0, ahead), one(1, 0, 0, ahead), Rays()) == 0  # side by side: left is parallel to left
    assert share(one(-2, 0, 0, ahead + 0.35), one(2, 0, 0, ahead - 0.35), Rays()) == 0  # they part
    assert share(one(yaw=0.1), one(), Rays()) == 0  # the rule is blind to turning on the spot


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_index_changes_nothing(rule):
    draw = torch.rand(400, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for spread in (5.0, 60.0, 1e7):
        places = (draw - 0.5) * torch.tensor([spread, spread, 3.0, 2 * math.pi])
        cams = cameras(places.tolist())
        views, retriever = rule.views(cams), FOVRetriever(cams, rule)
        found = 0.0
        for i in range(0, 400, 80):
            query = Cameras(cams.c2w[i], cams.intrinsics[i])
            asked = rule.views(Cameras(query.c2w[None], query.intrinsics[None]))
            everything = views.overlap(asked, torch.arange(400))
            assert torch.equal(retriever.overlap(query), everything)
            found += (everything > 0).double().mean().item() / 5
        assert (0.02 if spread == 5 else 1 / 500) < found < 0.9


@settings(max_examples=15, deadline=None)
@given(data=st.data(), dims=st.integers(1, 3), count=st.integers(0, 40), spread=st.sampled_from([1.0, 50.0, 1e9]))
def test_the_index_finds_the_discs_that_meet(data, dims, count, spread):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    centres = spread * torch.rand(count, dims, dtype=torch.float64, generator=generator)
    radii = 3 * torch.rand(count, dtype=torch.float64, generator=generator) + 0.1
    index = DiscIndex(centres, radii)
    for scale in (1.0, 100.0):
        centre = spread * (3 * torch.rand(dims, dtype=torch.float64, generator=generator) - 1)
        radius = scale * torch.rand((), dtype=torch.float64, generator=generator)
        meet = (centres - centre).norm(dim=1) <= radii + radius
        assert index.meeting(centre, radius).tolist() == meet.nonzero()[:, 0].tolist()


WALL = body("wall", "box", (4.0, 0.0, 0.0), (0.1, 20.0, 20.0), (1.0, 0.0, 0.0))


def depth_of(camera, *bodies):
    # a scene needs a body: one far behind every camera here
    scene = Scene((*bodies, body("behind", "sphere", (-500.0, 0.0, 0.0), 1.0, (0.0, 0.0, 0.0))))
    return render(scene, Cameras(camera.c2w[None], camera.intrinsics[None]), 24, 24, antialias=False).depth


def test_a_wall_between_two_cameras_hides():
    before, beyond = one(), one(x=5.0)
    walled = depth_of(before, WALL)
    assert share(before, beyond, FEW) > 0.1
    assert share(before, beyond, FEW, depth=walled) == 0  # the frame saw the wall, the query looks on beyond it
    assert share(before, beyond, FEW, depth=depth_of(before)) == share(before, beyond, FEW)
    # the query sees the wall, the frame saw what is beyond
    assert share(beyond, before, FEW) > 0.05
    assert share(beyond, before, FEW, depth=depth_of(beyond, WALL)) > 0.05
    assert share(beyond, View(before, walled[0]), FEW, depth=depth_of(beyond, WALL)) == 0
    # equal views of known depth; without the query's depth, what the frame saw is (3.9 + margin)³ of 10³, more aside
    assert share(before, View(before, walled[0]), FEW, depth=walled) == 1
    assert 0.07 < share(before, before, Points(count=100_000), depth=walled) < 0.1


def test_depth_is_read_at_the_pixel_a_point_falls_on():
    frame = Cameras(torch.eye(4, dtype=torch.float64)[None], one().intrinsics[None])
    for hidden, axis in (((slice(None), slice(0, 2)), 0), ((slice(0, 3), slice(None)), 1)):
        depth = torch.full((1, 6, 4), torch.inf)
        depth[0][hidden] = 0.0
        asked = Points(margin=0).views(frame)
        seen = Points(margin=0).views(frame, depth).seen(asked, torch.tensor([0]))[0]
        assert torch.equal(seen, asked.points()[:, axis] >= 0)
    depth = torch.full((1, 6, 4), 5.0)
    seen = Points(margin=1.0).views(frame, depth).seen(asked, torch.tensor([0]))[0]
    assert torch.equal(seen, asked.points().norm(dim=1) <= 6)


def circle(turns=2, steps=24):
    """Frames that turn on the spot."""
    return [(0, 0, 0, 2 * math.pi * i / steps) for i in range(turns * steps)]


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
    drawn = [one_a_run(frames, scores, 2, np.random.default_rng(seed)).tolist() for seed in range(600)]
    assert all(sorted(place > 2 for place in places) == [False, True] for places in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=5)
    assert abs(counts[:3] - 200).max() < 60 and abs(counts[3:] - 300).max() < 60
    assert abs(sum(places[0] > 2 for places in drawn) - 300) < 60
    assert one_a_run(frames, np.array([0.1, 0.5, 0.5, 0.2, 0.9]), 5, None).tolist() == [4, 1]


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
    with pytest.raises(InputError, match="from one place"):
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
    with pytest.raises(InputError, match="'0' comes twice"):
        FOVRetriever(cams, ids=["0"] * 48)
    with pytest.raises(InputError, match="3 ids"):
        FOVRetriever(cams, ids=["a", "b", "c"])
    with pytest.raises(InputError, match="one pose a frame"):
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


def test_depth_that_does_not_fit_is_named():
    cams, depth = cameras(circle()), torch.ones(48, 2, 2)
    with pytest.raises(InputError, match="has no use for it"):
        FOVRetriever(cams, depth=depth)
    with pytest.raises(InputError, match="has no use for it"):
        FOVRetriever(cams)(View(one(), depth[0]))
    with pytest.raises(InputError, match="each of 48 cameras"):
        FOVRetriever(cams, "points", depth=depth[:3])
    for wrong in (torch.nan, -1.0):
        with pytest.raises(InputError, match="NaN or values below 0"):
            FOVRetriever(cams, "points", depth=depth.index_fill(0, torch.tensor(7), wrong))
    with pytest.raises(InputError, match="sees none"):
        FOVRetriever(cams, Points(margin=0), depth=depth)(View(one(), torch.zeros(2, 2)))
