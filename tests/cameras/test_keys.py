"""Keys to cameras: exact where keys undo each other, equal to the walker of the worlds where both can say the same."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras, cameras_from_keys, cameras_from_stevo_keys, steps_from_keys
from memkit.cameras.keys import Key, Step
from memkit.errors import InputError
from memkit.worlds.paths import EYE_HEIGHT, Path, Turn, Wait, Walk
from tests.helpers.type_checks import unchecked

OPPOSITE: dict[Key, Key] = {"w": "s", "a": "d", "up": "down", "left": "right"}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}
PAIRS = [("w", "s"), ("a", "d"), ("up", "down"), ("left", "right")]


# Not steps themselves: beartype draws random numbers, which hypothesis forbids within strategies.
steps = st.lists(st.tuples(st.tuples(*[st.integers(0, 2)] * 4), st.integers(1, 4)), min_size=1, max_size=5)
Drawn = list[tuple[tuple[int, int, int, int], int]]
yaws = st.floats(-7, 7)
speeds = st.floats(0, 3)


def made(drawn: Drawn) -> list[Step]:
    return [Step(tuple(pair[i] for pair, i in zip(PAIRS, keys, strict=True) if i < 2), n) for keys, n in drawn]


def text(items: list[Step]) -> str:
    return ",".join(map(str, items))


def undone(items: list[Step]) -> list[Step]:
    return [Step(tuple(OPPOSITE[k] for k in s.keys), s.latents) for s in reversed(items)]


def start(yaw: float = 0.0, pitch: float = 0.0, dtype=torch.float64) -> Cameras:
    """At (1, 2, 1.5), the pitch in degrees."""
    eye = torch.tensor([1.0, 2.0, EYE_HEIGHT], dtype=torch.float64)
    level = math.cos(math.radians(pitch))
    way = [level * math.cos(yaw), level * math.sin(yaw), math.sin(math.radians(pitch))]
    cameras = Cameras.look_at(eye, eye + torch.tensor(way, dtype=torch.float64))
    return Cameras(cameras.c2w.to(dtype), cameras.intrinsics.to(dtype))


def pitches(cameras: Cameras) -> torch.Tensor:
    return torch.rad2deg(torch.asin(cameras.c2w[:, 2, 2]))


# -- text --------------------------------------------------------------------------------------------------------------


def test_the_string_of_a_benchmark_task():
    assert steps_from_keys("s-3, right-20, left-20") == [Step(("s",), 3), Step(("right",), 20), Step(("left",), 20)]


def test_combinations_waiting_spaces_and_capitals():
    assert steps_from_keys(" W + left-5,wait -4 ,UP- 2") == [Step(("w", "left"), 5), Step((), 4), Step(("up",), 2)]


@given(steps)
def test_steps_survive_their_text(drawn):
    items = made(drawn)
    assert steps_from_keys(text(items)) == items


@pytest.mark.parametrize(
    "bad",
    ["q-3", "w", "w-", "w-0", "w--1", "w-1.5", "-3", "3", "w+-3", "+w-3", "w w-3", "ahead+w-2", "wait+w-2", "w+w-2"]
    + ["w+s-3", "left+d+right-1", "w-٣", "w-3;left-2", "w-9999999", "wait", "wa it-3"],
)
def test_a_bad_item_is_named_with_its_number_and_the_keys(bad):
    with pytest.raises(InputError) as caught:
        steps_from_keys(f"left-2, {bad}, w-3")
    message = str(caught.value)
    assert message.startswith("Item 2 of") and repr(bad) in message
    assert "w, s, a, d, up, down, left, right" in message


@pytest.mark.parametrize("empty", ["", " ", "w-3,", ",w-3"])
def test_a_text_without_an_item_where_one_should_be_is_refused(empty):
    with pytest.raises(InputError, match="''"):
        steps_from_keys(empty)


@pytest.mark.parametrize("text", ["w-100001", "wait-999999", "w-60000, s-60000", f"left-{10**9}", "w-" + "9" * 10_000])
def test_a_path_that_is_too_long_is_refused_before_anything_is_computed(text):
    for cameras_from in (cameras_from_keys, cameras_from_stevo_keys):
        with pytest.raises(InputError, match="Item [12] of .*100,000 latent frames|characters|not ACTION-N"):
            cameras_from(text, start())


def test_frames_are_counted_too():
    with pytest.raises(InputError, match="1,000,003 frames, more than 1,000,000"):
        cameras_from_keys("w-1", start(), frames_per_latent=1_000_003)


@pytest.mark.parametrize("text", ["w" + " " * 10**6 + "-", " " * 10**6 + "w-3", "w+" * 10**6 + "w-1", "-" * 10**6])
def test_long_texts_are_read_in_an_instant(text):
    try:
        steps_from_keys(text)
    except InputError as error:
        assert len(str(error)) < 1000


@pytest.mark.parametrize("text", [None, 3, ["w-3"], b"w-3"])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(InputError, match="are no keys"):
        unchecked(steps_from_keys)(text)


@given(st.text(st.sampled_from("wsad+-,0123 uplefti\n\t٣é"), max_size=12))
def test_any_text_gives_steps_or_an_input_error(junk):
    try:
        items = steps_from_keys(junk)
    except InputError:
        return
    assert steps_from_keys(text(items)) == items


# -- cameras -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(steps, yaws, st.integers(1, 5), st.sampled_from([torch.float32, torch.float64]))
def test_one_camera_a_video_frame_the_first_is_the_start_and_all_are_rigid(drawn, yaw, frames, dtype):
    items = made(drawn)
    first = start(yaw, 20.0, dtype)
    cameras = cameras_from_keys(text(items), first, frames_per_latent=frames)
    count = 1 + frames * sum(s.latents for s in items)
    assert cameras.c2w.shape == (count, 4, 4) and cameras.c2w.dtype == dtype
    assert torch.equal(cameras.c2w[0], first.c2w)
    assert torch.equal(cameras.intrinsics, first.intrinsics.expand(count, 4))
    turn = cameras.c2w[:, :3, :3].double()
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).double().expand(count, 3, 3), atol=1e-6, rtol=0)
    assert torch.linalg.det(turn).min() > 0.99 and torch.equal(cameras.c2w[:, 3], first.c2w[3].expand(count, 4))


@settings(max_examples=50, deadline=None)
@given(steps, yaws, speeds, st.floats(0, 2.4), st.integers(1, 5))
def test_what_is_undone_is_undone_to_the_bit_in_every_frame(drawn, yaw, metres, degrees, frames):
    items = made(drawn)
    cameras = cameras_from_keys(  # 5 steps of 4 latents at 2.4° from a pitch of 20° stay below the limit
        text(items + undone(items)),
        start(yaw, 20.0),
        metres_per_latent=metres,
        degrees_per_latent=degrees,
        frames_per_latent=frames,
    )
    assert torch.equal(cameras.c2w, cameras.c2w.flip(0))


@pytest.mark.parametrize("keys", ["right-20, left-20", "w-7, s-7", "a-3,d-3", "up-5,down-5", "w+left-5, s+right-5"])
def test_there_and_back_ends_in_the_start_itself_but_goes_somewhere(keys):
    cameras = cameras_from_keys(keys, start(0.3))
    assert torch.equal(cameras.c2w[-1], cameras.c2w[0])
    assert (cameras.c2w[len(cameras.c2w) // 2] - cameras.c2w[0]).abs().max() > 0.1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["w", "left", "right", "wait"]), st.integers(1, 4)), min_size=1, max_size=6),
    yaws,
    st.floats(0.05, 2),
    st.floats(1, 50),
    st.integers(1, 5),
)
def test_level_motion_equals_the_walker_of_the_worlds(items, yaw, metres, degrees, frames):
    fps = 16.0
    seconds = frames / fps  # of a latent frame
    segments = {
        "w": lambda n: Walk(n * metres, metres / seconds),
        "left": lambda n: Turn(n * degrees, degrees / seconds),
        "right": lambda n: Turn(-n * degrees, degrees / seconds),
        "wait": lambda n: Wait(n * seconds),
    }
    path = Path((1.0, 2.0, yaw), tuple(segments[key](n) for key, n in items))
    times = torch.arange(1 + frames * sum(n for _, n in items), dtype=torch.float64) / fps
    want = path.cameras(times, fov_degrees=60.0)
    cameras = cameras_from_keys(
        ",".join(f"{key}-{n}" for key, n in items),
        Cameras(want.c2w[0], want.intrinsics[0]),
        metres_per_latent=metres,
        degrees_per_latent=degrees,
        frames_per_latent=frames,
    )
    torch.testing.assert_close(cameras.c2w, want.c2w, atol=1e-9, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, want.intrinsics, atol=0, rtol=0)


def test_the_default_speeds():
    cameras = cameras_from_keys("w-5,left-9", start())
    assert len(cameras.c2w) == 1 + 4 * 14
    torch.testing.assert_close(cameras.c2w[4, :3, 3], torch.tensor([1.4, 2, 1.5]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(cameras.c2w[-1, :3, 2], torch.tensor([0, 1.0, 0]).double(), atol=1e-6, rtol=0)


@given(yaws, st.floats(-80, 80))
@settings(max_examples=30, deadline=None)
def test_each_key_moves_or_turns_the_camera_as_its_user_sees_it(yaw, pitch):
    """By the camera's own axes: x right, y down, z forward; walking stays level however the camera is pitched."""
    first = start(yaw, pitch)
    right = first.c2w[:3, 0]
    ahead = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0]).double()
    for key, way in {"w": ahead, "s": -ahead, "d": right, "a": -right}.items():
        last = cameras_from_keys(f"{key}-2", first).c2w[-1]
        torch.testing.assert_close(last[:3, 3] - first.c2w[:3, 3], 0.8 * way, atol=1e-6, rtol=0)
        assert torch.equal(last[:3, :3], first.c2w[:3, :3])
    for key, column, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        last = cameras_from_keys(f"{key}-1", first, degrees_per_latent=3).c2w[-1]
        assert sign * (last[:3, 2] @ first.c2w[:3, column]) > 0.005  # looks to that side now
        assert torch.equal(last[:3, 3], first.c2w[:3, 3])
        assert abs(last[2, 0]) < 1e-12  # the horizon stays level
    torch.testing.assert_close(pitches(cameras_from_keys("up-1", first, degrees_per_latent=3))[-1].item(), pitch + 3)
    torch.testing.assert_close(pitches(cameras_from_keys("left-3", first))[-1].item(), pitch)


def test_keys_after_a_turn_move_along_the_new_heading():
    cameras = cameras_from_keys("w-5, left-9, w-5, right-18, d-5", start())
    at = cameras.c2w[[20, 76, 168], :2, 3]  # 2 m each: east, then north, then the right of south
    torch.testing.assert_close(at, torch.tensor([[3, 2], [3, 4], [1, 4]]).double(), atol=1e-6, rtol=0)


def test_walking_while_turning_runs_on_a_circle_and_ends_where_it_began():
    cameras = cameras_from_keys("w+left-36", start())
    radius = 36 * 0.4 / (2 * math.pi)
    centre = torch.tensor([1.0, 2.0 + radius], dtype=torch.float64)
    distances = (cameras.c2w[:, :2, 3] - centre).norm(dim=1)
    torch.testing.assert_close(distances, torch.full_like(distances, radius), atol=1e-9, rtol=0)
    torch.testing.assert_close(cameras.c2w[-1], cameras.c2w[0], atol=1e-9, rtol=0)


@settings(max_examples=30, deadline=None)
@given(steps, yaws, st.integers(1, 4))
def test_places_do_not_depend_on_the_frames_in_a_latent(drawn, yaw, frames):
    items = made(drawn)
    coarse = cameras_from_keys(text(items), start(yaw), frames_per_latent=frames)
    fine = cameras_from_keys(text(items), start(yaw), frames_per_latent=3 * frames)
    torch.testing.assert_close(fine.c2w[::3], coarse.c2w, atol=1e-9, rtol=0)


@given(st.floats(-85, 85), st.sampled_from(["up", "down"]), st.integers(1, 30))
@example(-76.0, "up", 1)  # comes to the limit on the way back
@settings(max_examples=30, deadline=None)
def test_pitch_is_clamped_at_85_degrees_and_counts_from_there(pitch, key, latents):
    sign = 1 if key == "up" else -1
    first = start(0.3, pitch)
    cameras = cameras_from_keys(f"{key}-{latents},{OPPOSITE[key]}-2", first)
    top = sign * min(sign * pitch + 10.0 * latents, 85.0)
    seen = pitches(cameras)
    assert seen.abs().max() < 85 + 1e-6
    torch.testing.assert_close(seen[4 * latents].item(), top, atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[-1].item(), sign * max(sign * top - 20.0, -85.0), atol=1e-6, rtol=0)
    again = cameras_from_keys(f"{key}-1", Cameras(cameras.c2w[4 * latents], first.intrinsics))  # goes on from the limit
    assert pitches(again).abs().max() < 85 + 1e-3


def test_a_path_cut_in_two_goes_on_where_it_was():
    whole = cameras_from_keys("w+left-3, up-2, d-4", start(0.3))
    head = cameras_from_keys("w+left-3, up-2", start(0.3))
    tail = cameras_from_keys("d-4", Cameras(head.c2w[-1], head.intrinsics[-1]))
    torch.testing.assert_close(torch.cat([head.c2w, tail.c2w[1:]]), whole.c2w, atol=1e-12, rtol=0)


def test_a_rolled_start_keeps_its_roll_under_yaw():
    level = start(0.3)
    roll = torch.eye(4).double()
    roll[:2, :2] = torch.tensor([[0.9, -math.sqrt(0.19)], [math.sqrt(0.19), 0.9]])
    cameras = cameras_from_keys("left-7, w-3", Cameras(level.c2w @ roll, level.intrinsics))
    want = cameras_from_keys("left-7, w-3", level)
    torch.testing.assert_close(cameras.c2w, want.c2w @ roll, atol=1e-12, rtol=0)


BAD_STARTS = {
    "looks along \\+z": (torch.eye(4), torch.full((4,), 0.5)),
    "not a rigid transform": (torch.eye(4) * 2, torch.full((4,), 0.5)),
    "give one": (torch.eye(4).repeat(2, 1, 1), torch.full((2, 4), 0.5)),
}


@pytest.mark.parametrize("message", BAD_STARTS)
def test_a_start_that_is_not_one_camera_with_a_heading_is_refused(message):
    with pytest.raises(InputError, match=message):
        cameras_from_keys("w-1", Cameras(*BAD_STARTS[message]))


def test_an_upside_down_start_is_refused():
    upside_down = start(0.3).c2w @ torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]).double())
    with pytest.raises(InputError, match="heading"):
        cameras_from_keys("w-1", Cameras(upside_down, start().intrinsics))


@pytest.mark.parametrize(
    "setting",
    [{"metres_per_latent": -0.1}, {"metres_per_latent": math.inf}, {"degrees_per_latent": math.nan}]
    + [{"degrees_per_latent": -1}, {"frames_per_latent": 0}, {"metres_per_latent": 1e300}, {"degrees_per_latent": None}]
    + [{"metres_per_latent": "0.4"}, {"frames_per_latent": math.inf}],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match="speeds of 0 or more"):
        unchecked(cameras_from_keys)("w-1", start(), **setting)
