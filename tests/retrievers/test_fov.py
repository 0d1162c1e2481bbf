"""Overlap of fields of view: known values, invariances, and an index that changes nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.retrievers import FOVRetriever, Points, Rays, Sector
from memkit.retrievers.fov_index import DiscIndex
from tests.helpers.fov_cameras import (
    FEW,
    FOV,
    RULES,
    angle,
    cameras,
    many_poses,
    metres,
    moved,
    one,
    poses,
    rigid,
    share,
)


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
