"""Camera paths: exact where they come back, never faster than they say."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.worlds.paths import Path, Turn, Wait, Walk, and_back, approach, door_and_back, turn_and_return

segments = st.one_of(
    st.builds(Walk, st.floats(0, 5), st.floats(0.3, 2)),
    st.builds(Turn, st.floats(-180, 180), st.floats(10, 90)),
    st.builds(Wait, st.floats(0, 2)),
)
points = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=4)
starts = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-7, 7))


def at(*seconds: float) -> torch.Tensor:
    return torch.tensor(seconds, dtype=torch.float64)


def frames(path: Path, fps: float = 8.0) -> torch.Tensor:
    return torch.arange(math.ceil(path.duration * fps) + 2, dtype=torch.float64) / fps


def test_poses_of_a_path_that_can_be_written_down():
    path = Path((1.0, 2.0, 0.0), (Walk(2.4), Turn(90), Wait(1), Walk(1.2)))
    assert path.duration == pytest.approx(2 + 2.25 + 1 + 1)
    half = math.pi / 2
    want = [[1, 2, 0], [2.2, 2, 0], [3.4, 2, half / 2], [3.4, 2, half], [3.4, 2.6, half], [3.4, 3.2, half]]
    torch.testing.assert_close(path.pose(at(-1, 1, 3.125, 5, 5.75, 99)), at(*sum(want, [])).view(-1, 3))
    assert path.motion(at(-1, 0, 2, 4.5, 5.5, 7)) == [
        "stands",
        "walks forward",
        "turns left",
        "stands",
        "walks forward",
        "stands",
    ]
    assert Path(path.start, (Turn(-10),)).motion(at(0.1)) == ["turns right"]


def test_a_camera_stands_at_eye_height_level_and_a_left_turn_moves_the_picture_right():
    path = Path((1.0, 2.0, math.pi / 2), (Turn(30, speed=30),))
    cameras = path.cameras(at(0, 1), fov_degrees=90)
    eye, right, forward = cameras.c2w[:, :3, 3], cameras.c2w[0, :3, 0], cameras.c2w[:, :3, 2]
    torch.testing.assert_close(eye, at(1, 2, 1.5).expand(2, 3))
    torch.testing.assert_close(forward[0], at(0, 1, 0))
    assert forward[1] @ right < -0.4  # what was to the left is now ahead
    assert cameras.c2w.dtype == torch.float64
    torch.testing.assert_close(cameras.intrinsics[0], at(0.5, 0.5, 0.5, 0.5))


@settings(deadline=None, max_examples=60)
@given(st.lists(segments, max_size=8))
def test_no_frame_jumps(parts):
    path = Path((0.0, 0.0, 0.3), tuple(parts))
    pose = path.pose(frames(path))
    walk = max((s.speed for s in parts if isinstance(s, Walk)), default=0.0)
    turn = max((math.radians(s.speed) for s in parts if isinstance(s, Turn)), default=0.0)
    step = pose.diff(dim=0)
    assert (step[:, :2].norm(dim=1) <= walk / 8 + 1e-9).all()
    assert (step[:, 2].abs() <= turn / 8 + 1e-9).all()


@settings(deadline=None, max_examples=60)
@given(starts, points)
def test_an_approach_visits_its_points_facing_them(start, way):
    path = Path(start, approach(start, way))
    ends = at(0.0, *[t for t in _ends(path.segments)])[2::2]
    torch.testing.assert_close(path.pose(ends)[:, :2], at(*sum(way, ())).view(-1, 2), atol=1e-9, rtol=0)
    assert all(abs(s.degrees) <= 180 + 1e-9 for s in path.segments if isinstance(s, Turn))


@settings(deadline=None, max_examples=60)
@given(starts, points, st.floats(90, 180), st.sampled_from(("left", "right")))
def test_a_way_there_and_back_ends_in_the_first_view_to_the_last_bit_that_matters(start, way, angle, side):
    path = Path(start, door_and_back(start, way, turn_and_return(angle, side)))
    torch.testing.assert_close(path.pose(at(path.duration)), at(*start)[None], atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=30)
@given(starts, points)
def test_the_way_back_leads_through_the_places_of_the_way_there(start, way):
    there = approach(start, way)
    out, half = Path(start, there), Turn(180).seconds
    path = Path(start, and_back(there))
    walking = frames(out)[[motion == "walks forward" for motion in out.motion(frames(out))]]
    back = 2 * out.duration + half - walking
    torch.testing.assert_close(path.pose(back)[:, :2], path.pose(walking)[:, :2], atol=1e-9, rtol=0)


@pytest.mark.parametrize("side, sign", [("left", 1), ("right", -1)])
def test_a_turn_and_its_return_show_the_same_views_about_the_middle(side, sign):
    path = Path((0.5, 0.5, 1.0), turn_and_return(135, side, wait_seconds=0.75))
    t = frames(path)[:-2]
    middle = path.duration / 2
    torch.testing.assert_close(path.pose(2 * middle - t), path.pose(t), atol=1e-9, rtol=0)
    assert math.degrees(path.pose(at(middle))[0, 2].item() - 1) == pytest.approx(135 * sign)


def test_then_goes_on_where_the_path_ends():
    rng = random.Random(0)
    parts = [Walk(rng.uniform(0, 2)) if rng.random() < 0.5 else Turn(rng.uniform(-90, 90)) for _ in range(12)]
    whole, grown = Path((0.0, 0.0, 0.0), tuple(parts)), Path((0.0, 0.0, 0.0))
    for part in parts:
        grown = grown.then(part)
    assert grown == whole and len(whole.pose(frames(whole))) > 0


def test_without_segments_it_stands():
    path = Path((1.0, 2.0, 3.0), (Turn(0), Wait(0)))
    assert path.duration == 0 and path.motion(at(0, 1)) == ["stands", "stands"]
    assert path.pose(at(0, 1)).tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize("make", [lambda: Walk(-1), lambda: Walk(1, 0), lambda: Turn(5, -3), lambda: Wait(-0.1)])
def test_steps_that_cannot_be_taken(make):
    with pytest.raises(InputError, match="give"):
        make()


def _ends(parts):
    total = 0.0
    for part in parts:
        total += part.seconds
        yield total
