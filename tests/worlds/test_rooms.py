"""Rooms: the same by name, free where the camera goes, true to their laws, hidden where something hides them."""

import dataclasses
import itertools
import math
import random
import re

import pytest
import torch

from memkit.errors import InputError
from memkit.worlds import render
from memkit.worlds.constants import COLOURS, SPLITS
from memkit.worlds.furniture import WALLS
from memkit.worlds.paths import Path, Turn, Wait, door_and_back, turn_and_return
from memkit.worlds.people import Circle, Floating, Patrol
from memkit.worlds.render import SKY_ID
from memkit.worlds.rooms import Room, RoomClip, sample_clip, sample_room

NAMES = [f"{split}-{i:05d}-dynamic" for i, split in enumerate(SPLITS * 14)]
ROOMS = [Room.named(name) for name in NAMES]
FRAMES = torch.arange(501, dtype=torch.float64) / 8


def at(*seconds: float) -> torch.Tensor:
    return torch.tensor(seconds, dtype=torch.float64)


def see(room, path, seconds, size=32, antialias=False):
    return render(room.scene(seconds), path.cameras(seconds), size, size, antialias)


# Names and layouts


def test_a_room_is_its_name():
    random.seed(1)  # the common generator has no say
    assert [Room.named(name) for name in reversed(NAMES)] == ROOMS[::-1]
    assert len({dataclasses.replace(room, name="") for room in ROOMS}) == len(ROOMS)


def test_splits_share_no_room():
    drawn = {split: {sample_room(random.Random(i), split).name for i in range(50)} for split in SPLITS}
    for split, names in drawn.items():
        assert all(name.startswith(f"{split}-") for name in names) and len(names) > 40
    for part in ("stations", "pillars", "walls", "yaw"):
        assert len({getattr(Room.named(f"{split}-00008"), part) for split in SPLITS}) == len(SPLITS)


def test_a_static_room_is_its_twin_without_people():
    for room in ROOMS:
        static = Room.named(room.name.removesuffix("-dynamic"))
        assert static == dataclasses.replace(room, name=static.name, movers=()) and room.movers
    assert not sample_room(random.Random(1), "test").movers
    assert sample_room(random.Random(1), "test", dynamic=True).movers


@pytest.mark.parametrize("name", ["train-1", "prod-00001", "train-00001-moving", "x train-00001", "train-00001\n"])
def test_names_of_no_room(name):
    with pytest.raises(InputError, match="names are like"):
        Room.named(name)


def test_sizes_and_numbers():
    kinds = set()
    for room in ROOMS:
        assert 8 <= room.length <= 11 and 6 <= room.width <= 8 and 1.2 <= room.door_width <= 1.6
        assert 1 <= len(room.pillars) <= 3 and 2 <= len(room.furniture) <= 4 and 1 <= len(room.movers) <= 2
        assert len(room.scene(at(0)).bodies) <= 16
        assert len(set(room.walls)) == 5
        names = [body.name for body in room.scene(at(0)).bodies]
        assert len(set(names)) == len(names)
        kinds |= {mover.kind for mover in room.movers}
    assert kinds == {"patrol", "circle", "floating"}


def _clearance(x, y, bodies):
    """Metres on the floor from points [F] to the nearest of solid bodies, whatever their height."""
    gaps = []
    for body in bodies:
        if body.shape == "plane":
            continue
        dx, dy = (x - body.centre[:, 0]).abs(), (y - body.centre[:, 1]).abs()
        if body.shape == "box":
            dx, dy = (dx - body.half[:, 0]).clamp(min=0), (dy - body.half[:, 1]).clamp(min=0)
            gaps.append((dx**2 + dy**2).sqrt())
        else:
            gaps.append((dx**2 + dy**2).sqrt() - body.half[:, 0])
    return torch.stack(gaps).amin(0)


def test_the_camera_keeps_clear_of_everything_on_long_tours():
    nearest = []
    for i, room in enumerate(ROOMS):
        path = room.tour(random.Random(i), 62.5)
        x, y, _ = path.pose(FRAMES).unbind(-1)
        assert path.duration >= 62.5
        assert (x > 0).all() and (x < room.length).all() and (y > 0).all() and (y < room.width).all()
        nearest.append(_clearance(x, y, room.scene(FRAMES).bodies).min())
    assert min(nearest) >= 0.25


def test_what_moves_keeps_clear_of_what_stands_and_of_others():
    seconds = torch.arange(400, dtype=torch.float64) / 10
    for room in ROOMS:
        fixed = dataclasses.replace(room, movers=()).scene(seconds).bodies
        for i, mover in enumerate(room.movers):
            state, radius = mover.state(seconds), mover.bodies(seconds)[0].half[0, 0]
            others = [body for other in room.movers[:i] for body in other.bodies(seconds)]
            assert (_clearance(state["x"], state["y"], [*fixed, *others]) > radius).all()


def test_the_world_ends_at_the_walls():
    for i, room in enumerate(ROOMS[:12]):
        path = room.tour(random.Random(i), 62.5)
        seconds = FRAMES[i::40]
        cameras = path.cameras(seconds)
        out = see(room, path, seconds, size=32)
        assert (out.ids[:, 16:] != SKY_ID).all()
        origin, rays = cameras.rays(32, 32)
        floor = out.ids == room.scene(at(0)).index("floor")
        x, y, _ = (origin[:, None, None] + rays * out.depth[..., None])[floor].unbind(-1)
        assert (x > 0).all() and (x < room.length).all() and (y > 0).all() and (y < room.width).all()


# Paths in rooms


def test_through_the_door_to_the_other_side_and_back():
    for room in ROOMS:
        path = Path(room.start, door_and_back(room.start, room.door_points))
        x, y, _ = path.pose(FRAMES).unbind(-1)
        east = x > room.wall_x
        assert (east[:-1] != east[1:]).sum() == 2 and east[0] == east[-1]
        passing = (x - room.wall_x).abs() < 0.1
        assert ((y - room.door_y).abs()[passing] < room.door_width / 2 - 0.25).all()
        torch.testing.assert_close(path.pose(at(path.duration))[0], at(*room.start), atol=1e-9, rtol=0)


def test_tours_are_no_faster_than_a_walk():
    for i, room in enumerate(ROOMS):
        step = room.tour(random.Random(i), 62.5).pose(FRAMES).diff(dim=0)
        assert step[:, :2].norm(dim=1).max() <= 1.2 / 8 + 1e-9
        assert step[:, 2].abs().max() <= math.radians(40) / 8 + 1e-9


def test_a_look_around_shows_the_same_picture_on_the_way_back_unless_people_move():
    changed = 0
    for room in ROOMS[:6]:
        look = Path(room.start, turn_and_return(120, "right", 0.5))
        out = at(0, 0.5, 1.0, 2.0)
        back = look.duration - out
        torch.testing.assert_close(look.pose(out), look.pose(back), atol=1e-9, rtol=0)
        for twin in (Room.named(room.name.removesuffix("-dynamic")), room):
            a, b = (see(twin, look, seconds, antialias=True).rgb for seconds in (out, back))
            same = (a - b).abs().max() <= 1 / 255
            changed += not same
            assert same or twin.movers
    assert changed >= 2


def test_looks_around_on_a_tour_mirror_about_frames():
    looks = 0
    for i, room in enumerate(ROOMS[:9]):
        path = room.tour(random.Random(i), 62.5)
        ends = list(itertools.accumulate(segment.seconds for segment in path.segments))
        for end, (out, wait, back) in zip(ends, _threes(path.segments), strict=False):
            if isinstance(out, Turn) and isinstance(wait, Wait) and back == Turn(-out.degrees):
                middle = end + wait.seconds / 2
                assert abs(middle * 16 - round(middle * 16)) < 1e-6
                away = torch.arange(1, 16, dtype=torch.float64) / 16
                torch.testing.assert_close(path.pose(middle - away), path.pose(middle + away), atol=1e-9, rtol=0)
                looks += 1
    assert looks > 20


def _threes(items):
    return zip(items, items[1:], items[2:], strict=False)


# What moves


def test_a_patrol_is_a_triangle_wave():
    patrol = Patrol("red", 1.7, (1.0, 1.0), (4.0, 5.0), 0.8, 2.0)
    t = torch.arange(2000, dtype=torch.float64) / 100
    state = patrol.state(t)
    speed = torch.stack([state["x"], state["y"]]).diff(dim=1).norm(dim=0) * 100
    assert (speed - 0.8).abs().lt(1e-9).float().mean() > 0.99  # all but where it turns round
    assert speed.max() < 0.8 + 1e-9
    for name, value in patrol.state(t + 2 * 5 / 0.8).items():
        torch.testing.assert_close(value, state[name], atol=1e-9, rtol=0)
    assert state["s"][0] == 2 and state["s"].min() < 0.01 and state["s"].max() > 4.99
    line = (state["x"] - 1) * 4 - (state["y"] - 1) * 3
    assert line.abs().max() < 1e-9


def test_a_circle_keeps_its_radius_and_speed():
    circle = Circle("red", 1.7, (2.0, 3.0), 0.9, -0.7, 0.4)
    t = torch.arange(1000, dtype=torch.float64) / 100
    state = circle.state(t)
    x, y = state["x"] - 2, state["y"] - 3
    torch.testing.assert_close((x**2 + y**2).sqrt(), torch.full_like(t, 0.9))
    torch.testing.assert_close(state["angle"].diff() * 0.9 * 100, torch.full_like(t[1:], -0.7))
    assert x[0] * y[1] - y[0] * x[1] < 0  # clockwise from above


def test_a_floating_ball_swings_about_its_middle():
    ball = Floating("red", 1.0, 2.0, 0.3, 1.2, 0.5, 4.0, 0.0)
    state = ball.state(at(0, 1, 2, 3, 4))
    torch.testing.assert_close(state["z"], at(1.2, 1.7, 1.2, 0.7, 1.2))
    assert ball.bodies(at(1))[0].centre.tolist() == [[1.0, 2.0, 1.7]]


def test_bodies_are_where_the_state_says_and_stand_on_the_floor():
    seconds = at(0, 3, 77)
    for mover in (mover for room in ROOMS for mover in room.movers):
        body, *head = mover.bodies(seconds)
        state = mover.state(seconds)
        torch.testing.assert_close(body.centre[:, :2], torch.stack([state["x"], state["y"]], dim=1))
        low = (body.centre - body.half)[:, 2]
        assert mover.law and (low > 0 if mover.kind == "floating" else low.abs() < 1e-9).all()
        for ball in head:
            top = (ball.centre + ball.half)[:, 2]
            assert (top - mover.height).abs().max() < 1e-9 and 1.6 <= mover.height <= 1.8


def test_a_person_vanishes_behind_a_pillar_in_view_and_comes_back():
    room = next(r for r in ROOMS if r.movers[0].kind == "circle")
    person = room.movers[0]
    x, y = room.stations[0]
    path = Path((x, y, math.atan2(person.centre[1] - y, person.centre[0] - x)), (Wait(60),))
    bare = dataclasses.replace(room, pillars=(), furniture=())
    seconds = torch.arange(0, 2 * math.pi * person.radius / abs(person.speed), 0.25, dtype=torch.float64)

    def pixels(which):
        parts = [which.scene(at(0)).index(f"{part}person in {person.colour}") for part in ("", "head of ")]
        ids = see(which, path, seconds, size=48).ids
        return torch.stack([ids == part for part in parts]).sum((0, 2, 3))

    seen, unhidden = pixels(room), pixels(bare)
    assert (unhidden > 0).all()  # within the field of view at all times
    assert (seen == 0).any() and (seen > 0).any()
    behind = (seen == 0).int()
    turns = behind.diff()
    assert (turns == 1).any() and (
        turns == -1
    ).any()  # hidden after having been seen, and seen after having been hidden
    assert (seen == unhidden).any()


def test_a_person_in_front_hides_the_pillar():
    room = next(r for r in ROOMS if r.movers[0].kind == "circle")
    person = room.movers[0]
    x, y = room.stations[0]
    path = Path((x, y, math.atan2(person.centre[1] - y, person.centre[0] - x)))
    seconds = torch.arange(0, 2 * math.pi * person.radius / abs(person.speed), 0.25, dtype=torch.float64)
    pillar = (see(room, path, seconds, size=48).ids == room.scene(at(0)).index("pillar 1")).sum((1, 2))
    assert pillar.min() < 0.8 * pillar.max()


# Clips


@pytest.fixture(scope="module")
def clips():
    return [sample_clip(random.Random(i), "train") for i in range(60)]


def test_a_clip_is_a_window_of_the_path_and_of_time():
    room = ROOMS[0]
    path = room.tour(random.Random(0), 30)
    clip = RoomClip(room, path, 2.0)
    later = RoomClip(room, path, 2.5)
    assert clip.source == room.name
    video = clip.video(frames=6, size=24)
    assert video.shape == (6, 24, 24, 3) and video.dtype == torch.uint8
    assert torch.equal(video[4:], later.video(frames=2, size=24))
    torch.testing.assert_close(clip.cameras(3).c2w, path.cameras(at(2, 2.125, 2.25)).c2w)
    torch.testing.assert_close(clip.times(3, fps=4.0), at(2, 2.25, 2.5))


def test_captions_say_what_is_seen_without_numbers(clips):
    for clip in clips:
        caption = clip.caption
        assert not re.search(r"\d", caption) and len(caption.split()) <= 26
        pieces = clip.parts()
        assert pieces[0].text == clip.motion
        assert " ".join(piece.text for piece in pieces) == caption
        assert [piece.needed for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        said = set(re.findall(r"\w+", caption))
        room = clip.room
        walls = re.search(r"room of (.*?) walls", caption)
        assert walls and set(re.findall(r"\w+", walls[1])) - {"and"} <= set(room.walls) <= set(WALLS)
        owned = {piece.colour for piece in room.furniture} | {mover.colour for mover in room.movers}
        assert said & set(COLOURS) <= owned
        assert ("person" in said) <= any(mover.kind != "floating" for mover in room.movers)
    assert sum("where" in clip.caption for clip in clips) > 5


def test_what_a_caption_names_is_in_the_picture(clips):
    for clip in clips[:15]:
        names = [body.name for body in clip.scene(1).bodies]
        ids = see(clip.room, clip.path, clip.times(), size=32).ids
        seen = {names[i] for i in ids.unique().tolist() if i >= 0}
        for thing in (*clip.room.furniture, *clip.room.movers):
            assert thing.words not in clip.caption or thing.name in seen
        for name in ("west wall", "east wall", "south wall", "north wall"):
            word = clip.room.wall_colour(name)
            assert word not in clip.caption.split(" walls")[0] or name in seen


@pytest.mark.parametrize(
    "motion, start, seconds",
    [("turning left in", 0.5, 2), ("standing in", 3.5, 1), ("turning right in", 4.75, 2), ("walking through", 8.25, 2)],
)
def test_captions_name_the_motion(motion, start, seconds):
    room = ROOMS[0]
    back = door_and_back((*room.stations[1], 0.0 if room.wall_x > room.stations[1][0] else math.pi), room.stations[2:3])
    yaw = 0.0 if room.wall_x > room.stations[1][0] else math.pi
    path = Path((*room.stations[1], yaw), (*turn_and_return(120, "left", 1.5), Wait(0.5), *back))
    assert RoomClip(room, path, start, seconds).caption.startswith(f"{motion} a room")


def test_two_motions_are_named_in_their_order():
    room = ROOMS[0]
    path = Path(room.start, turn_and_return(90, "right", 0.0))
    assert RoomClip(room, path, 1.25).caption.startswith("turning right, then turning left in a room")


def test_clips_turn_walk_and_stand(clips):
    def share(verb):
        return sum(sum(n for m, n in c.motion_shares().items() if m.startswith(verb)) >= 0.75 for c in clips) / len(
            clips
        )

    assert 0.2 < share("turns") < 0.5 and 0.15 < share("walks") < 0.5
    assert {clip.source.endswith("dynamic") for clip in clips} == {True, False}


def test_a_sampled_clip_depends_on_its_generator_alone(clips):
    again = sample_clip(random.Random(3), "train")
    assert (again.room, again.path, again.start_seconds) == (clips[3].room, clips[3].path, clips[3].start_seconds)
    assert sample_clip(random.Random(3), "test").source.startswith("test-")
    assert sample_clip(random.Random(3), "train", frames=33, fps=16.0).seconds == 2.0
