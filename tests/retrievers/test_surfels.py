"""`SurfelRetriever`: its map and votes against a literal reference, invariances, VMem's choice of poses, files."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.errors import FileError, InputError
from memkit.retrievers import PoseSelection, SurfelRetriever, SurfelRule
from memkit.retrievers.depth import check_depth
from memkit.testing import check_retriever
from memkit.worlds import Scene, body, render
from memkit.worlds.rooms import Room
from tests.helpers import surfel_reference
from tests.helpers.fov_cameras import cameras, moved, one, rigid
from tests.helpers.unchecked import build

RULE = SurfelRule(columns=6, pixels=(9, 12), zoom=0.8, radius=0.6, spread=2.5)
GREY = (0.5, 0.5, 0.5)
FLOOR = body("floor", "plane", (0.0, 0.0, -1.5), 1.0, GREY)


def depth_of(cams: Cameras, *bodies, height: int = 8, width: int = 10) -> torch.Tensor:
    return render(Scene((FLOOR, *bodies)), cams, height, width, antialias=False).depth


def of(cams: Cameras, *rows: int) -> Cameras:
    return Cameras(cams.c2w[list(rows)], cams.intrinsics[list(rows)])


def some_world(seed: int, frames: int) -> tuple[Cameras, torch.Tensor, Cameras]:
    """Frames that look at boxes from all sides, tilted, with their depth, and a camera among them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(frames + 1, 4, generator=generator, dtype=torch.float64) - 0.5
    places = drawn * torch.tensor([2.0, 2.0, 0.5, 0.8])
    tilt = rigid((0.02, 0.3 * float(drawn[0, 0]), 0.03), (0.1, 0.2, 0.3))
    where = (torch.rand(5, 3, generator=generator, dtype=torch.float64) - 0.5) * 6 + torch.tensor([5.0, 0.0, 0.0])
    boxes = [body(f"{i}", "box", x, 0.6 + 0.2 * i, GREY) for i, x in enumerate(where)]
    every = moved(cameras(places.tolist()), tilt)
    every.intrinsics[:, 1:] = torch.tensor([1.3, 0.45, 0.55])
    past = of(every, *range(frames))
    return past, depth_of(past, *boxes), Cameras(every.c2w[-1], every.intrinsics[-1])


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 4))
def test_map_picture_and_votes_are_those_of_the_literal_rule(seed: int, frames: int) -> None:
    past, depth, query = some_world(seed, frames)
    retriever = SurfelRetriever(past, depth, RULE)
    wanted, found = surfel_reference.of_frames(RULE, past, depth), retriever.map
    for name in ("position", "normal", "side"):
        want = torch.stack([getattr(each, name) for each in wanted])
        torch.testing.assert_close(torch.from_numpy(getattr(found.surfels, name)), want, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.surfels.radius, [each.radius for each in wanted], rtol=1e-9)
    pairs = [(i, frame) for i, each in enumerate(wanted) for frame in each.frames]
    assert sorted(map(tuple, found.seen_by.tolist())) == pairs
    picture = found.drawn(query.c2w.numpy(), query.intrinsics.numpy())
    assert picture.tolist() == surfel_reference.drawn(RULE, wanted, query)
    want = surfel_reference.votes(RULE, wanted, query, frames)
    np.testing.assert_allclose(retriever.votes(query).numpy(), want, rtol=1e-9)


def test_the_reference_is_put_to_the_test() -> None:
    """In its worlds, surfels merge and hide each other, pixels are empty, and frames share votes."""
    past, depth, query = some_world(2, 4)
    wanted = surfel_reference.of_frames(RULE, past, depth)
    assert sum(len(each.frames) > 1 for each in wanted) > 8 and depth.isinf().any()
    picture = torch.tensor(surfel_reference.drawn(RULE, wanted, query))
    assert (picture < 0).any() and len(picture.unique()) > 20
    assert sum(each > 0 for each in surfel_reference.votes(RULE, wanted, query, 4)) > 2


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), turn=st.tuples(*[st.floats(-3, 3)] * 3), shift=st.tuples(*[st.floats(-50, 50)] * 3))
def test_moving_the_whole_world_changes_nothing(seed: int, turn: tuple, shift: tuple) -> None:
    past, depth, query = some_world(seed, 4)
    motion = rigid(turn, shift)
    ours, theirs = SurfelRetriever(past, depth, RULE), SurfelRetriever(moved(past, motion), depth, RULE)
    torch.testing.assert_close(theirs.votes(moved(query, motion)), ours.votes(query), rtol=1e-7, atol=1e-9)
    assert theirs(moved(query, motion), 3).ids == ours(query, 3).ids


def test_what_is_hidden_does_not_vote() -> None:
    wall = body("wall", "box", (6.0, 0.0, 0.0), (0.1, 4.0, 3.0), GREY)
    screen = body("screen", "box", (2.0, 0.0, 0.0), (0.05, 3.0, 3.0), GREY)
    between = cameras([(3.0, 0.3, 0, 0.0), (-0.9, 0.1, 0, 0.0), (-4.0, 0.2, 0, np.pi)])  # two face each side, one away
    depth = depth_of(between, wall, screen)
    rule = SurfelRule(pixels=(18, 18), zoom=1.0, radius=0.75)
    votes = SurfelRetriever(between, depth, rule).votes(one())
    assert votes[1] > 0 and votes[0] == votes[2] == 0
    assert SurfelRetriever(between, depth, rule)(one(), 3).ids == ["1"]
    leaking = SurfelRetriever(between, depth, replace(rule, radius=0.5)).votes(one())
    assert 0 < leaking[0] < 0.1 * leaking[1] and leaking[2] == 0  # through the gaps between surfels
    open_view = SurfelRetriever(between, depth_of(between, wall), rule).votes(one())
    assert open_view[0] > 0 and open_view[1] > 0 and open_view[2] == 0
    behind = SurfelRetriever(between, depth, rule).votes(one(4.0, 0, 0, np.pi))  # the screen from its back
    assert behind[0] == behind[1] == 0


def choice(rule: PoseSelection, c2w: torch.Tensor, query: torch.Tensor, votes: list[float], k: int) -> list[int]:
    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        cosine = ((a[:3, :3].T @ b[:3, :3]).trace() - 1) / 2
        return float(rule.per_metre * (a[:3, 3] - b[:3, 3]).norm() + cosine.clamp(-1, 1).arccos())

    seen = sorted((i for i, vote in enumerate(votes) if vote > 0), key=lambda i: (-votes[i], i))[: k + rule.extra]
    order = sorted(sorted(seen), key=lambda i: apart(c2w[i], query))
    tau = float(np.median([apart(a, b) for i, a in enumerate(c2w[:5]) for b in c2w[:i]]))
    chosen = order[:1]
    while len(chosen) < min(k, len(order)) and tau >= rule.least:
        for i in order:
            if i not in chosen and len(chosen) < k and all(apart(c2w[i], c2w[j]) >= tau for j in chosen):
                chosen.append(i)
        tau /= rule.relax
    return [*chosen, *(i for i in order if i not in chosen)][:k]


def test_the_poses_are_those_of_the_literal_choice() -> None:
    walk = [(0.3 * i, 0.2 * (i % 3), 0.1 * (i % 2), 0.5 * np.sin(i)) for i in range(12)]
    past, wall = cameras(walk), body("wall", "box", (9.0, 0.0, 0.0), (0.1, 9.0, 3.0), GREY)
    different = 0
    for rule in (PoseSelection(), PoseSelection(extra=1, per_metre=1.0, relax=3.0)):
        retriever = SurfelRetriever(past, depth_of(past, wall), RULE, poses=rule)
        for x, yaw in ((0.1, 0.0), (2.0, 0.4), (3.0, -0.6)):
            query = one(x, yaw=yaw)
            votes = retriever.votes(query).tolist()
            for k in (1, 3, 4, 8, 12):
                wanted = choice(rule, past.c2w, query.c2w, votes, k)
                assert retriever(query, k).ids == [str(i) for i in wanted]
                different += wanted != choice(PoseSelection(least=1.0, relax=999.0), past.c2w, query.c2w, votes, k)
    assert different > 5  # from the nearest ones
    latest = SurfelRetriever(past, depth_of(past, wall), RULE, poses=PoseSelection(diverse=False))
    assert latest(one(0.1), 3).ids[-1] == "11" and latest(one(0.1), 3, exclude=["11"]).ids[-1] == "10"


def test_frames_added_one_by_one_saved_and_loaded_are_the_same_map(tmp_path) -> None:
    past, depth, query = some_world(5, 6)
    at_once = SurfelRetriever(past, depth, RULE)
    by_one = SurfelRetriever(of(past), depth[:0], RULE)
    assert by_one(query, 2).ids == [] and len(by_one) == 0
    for i in range(3):
        by_one.add(of(past, i), depth[i : i + 1])
    by_one.save(tmp_path / "map.safetensors")
    loaded = SurfelRetriever.load(tmp_path / "map.safetensors")
    loaded.add(of(past, 3, 4, 5), depth[3:])
    assert loaded.nbytes == at_once.nbytes == 80 * len(at_once.map.surfels.radius) + 16 * len(at_once.map.seen_by) + 960
    assert torch.equal(loaded.votes(query), at_once.votes(query)) and loaded(query, 4) == at_once(query, 4)
    assert (loaded.rule, loaded.select, loaded.poses) == (RULE, "poses", PoseSelection())
    file = tmp_path / "map.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    with pytest.raises(FileError):
        SurfelRetriever.load(file)
    before = loaded.nbytes
    with pytest.raises(InputError, match="occurs twice"):
        loaded.add(of(past, 0), depth[:1], ids=["3"])
    assert loaded.nbytes == before and len(loaded) == 6


@pytest.mark.parametrize("select", ["poses", "votes"])
def test_it_has_the_properties_of_a_retriever(select) -> None:
    past, depth, query = some_world(7, 8)
    sources = {str(i): f"film{i % 3}" for i in range(8)}
    retriever = SurfelRetriever(past, depth, RULE, sources=list(sources.values()), select=select)
    near = Cameras(past.c2w[2], past.intrinsics[2])
    check_retriever(retriever, [query, near], sources=sources, ranks=select == "votes", examples=3)


def test_in_a_room_the_frames_that_saw_a_place_vote_for_it_and_its_own_pose_comes_first() -> None:
    room, seconds = Room.named("test-00001"), torch.arange(0, 8, 0.5, dtype=torch.float64)
    past = room.tour(random.Random(0), 8).cameras(seconds)
    depth = render(room.scene(seconds), past, 32, 32, antialias=False).depth
    retriever = SurfelRetriever(past, depth, SurfelRule(pixels=(32, 32)))
    for i in (0, 5, 9):
        query = Cameras(past.c2w[i], past.intrinsics[i])
        votes, first = retriever.votes(query), int(retriever(query, 1).ids[0])
        torch.testing.assert_close(past.c2w[first], past.c2w[i], rtol=0, atol=1e-9)
        ahead = past.c2w[:, :3, 2] @ query.c2w[:3, 2]
        assert votes[ahead < -0.5].sum() < 0.02 * votes.sum() and votes[ahead > 0.9].min() > 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda depth: depth[:1], "for each of 2"),
        (lambda depth: -depth, "below 0"),
        (lambda depth: depth * torch.nan, "NaN"),
    ],
)
def test_bad_depth_is_refused(bad, said) -> None:
    past, depth, _ = some_world(1, 2)
    with pytest.raises(InputError, match=said):
        SurfelRetriever(past, bad(depth.clamp(max=99.0)), RULE)


def test_other_bad_input_is_refused() -> None:
    past, depth, query = some_world(1, 2)
    for wrong in (depth.int(), depth.numpy(), depth[0], None):
        with pytest.raises(InputError, match="floating-point|give \\[H, W\\]"):
            check_depth(wrong, 2)
    with pytest.raises(InputError, match="'poses' or 'votes'"):
        build(SurfelRetriever, cameras=past, depth=depth, select="best")
    with pytest.raises(InputError, match="give one camera"):
        SurfelRetriever(past, depth, RULE)(past)
    with pytest.raises(InputError, match="0 ≤ near < far"):
        SurfelRule(near=3.0, far=2.0)
    nothing = SurfelRetriever(past, torch.full_like(depth, torch.inf), RULE)
    assert nothing(query).ids == [] and not nothing.votes(query).any()
