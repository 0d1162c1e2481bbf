"""STEVO-Bench's keys: equal to a closed form from sines and cosines, and apart from memkit's own keys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras, cameras_from_keys, cameras_from_stevo_keys, steps_from_stevo_keys
from memkit.cameras.keys import Step
from memkit.errors import InputError

DEFAULT = "s-3, right-10, left-20, right-10"
MOVES = {"w": (0, 0, 1), "s": (0, 0, -1), "a": (-1, 0, 0), "d": (1, 0, 0)}
items = st.lists(
    st.tuples(st.sampled_from(["w", "s", "a", "d", "up", "down", "left", "right"]), st.integers(1, 6)),
    min_size=1,
    max_size=6,
)


def identity(dtype=torch.float64) -> Cameras:
    return Cameras(torch.eye(4, dtype=dtype), torch.tensor([0.9, 1.6, 0.5, 0.5], dtype=dtype))


def closed_form(drawn, units=0.08, degrees=3.0) -> torch.Tensor:
    """The pose at each latent frame, one latent frame after another, by elementary rotations."""
    turn, at = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    poses = [(turn, at)]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turns = {
        "right": [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]],  # z, forward, comes to x, right
        "up": [[1, 0, 0], [0, cos, -sin], [0, sin, cos]],  # forward comes to -y, up
    }
    turns = {key: torch.tensor(rows, dtype=torch.float64) for key, rows in turns.items()}
    turns |= {"left": turns["right"].T, "down": turns["up"].T}
    for key, latents in drawn:
        for _ in range(latents):
            if key in MOVES:
                at = at + turn @ (units * torch.tensor(MOVES[key], dtype=torch.float64))
            else:
                turn = turn @ turns[key]
            poses.append((turn, at))
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
    c2w[:, :3, :3] = torch.stack([turn for turn, _ in poses])
    c2w[:, :3, 3] = torch.stack([at for _, at in poses])
    return c2w


@settings(max_examples=60, deadline=None)
@given(items, st.integers(1, 5), st.floats(0, 2), st.floats(0, 50))
def test_poses_are_those_of_the_closed_form(drawn, frames, units, degrees):
    cameras = cameras_from_stevo_keys(
        ",".join(f"{key}-{n}" for key, n in drawn),
        identity(),
        units_per_latent=units,
        degrees_per_latent=degrees,
        frames_per_latent=frames,
    )
    assert len(cameras.c2w) == 1 + frames * sum(n for _, n in drawn)
    torch.testing.assert_close(cameras.c2w[::frames], closed_form(drawn, units, degrees), atol=1e-11, rtol=0)
    assert torch.equal(cameras.c2w[:, 3], torch.eye(4).double()[3].expand(len(cameras.c2w), 4))


def test_the_benchmarks_default_path():
    c2w = cameras_from_stevo_keys(DEFAULT, identity()).c2w
    assert len(c2w) == 4 * 43 + 1 == 173
    torch.testing.assert_close(c2w[12:, :3, 3], torch.tensor([0, 0, -0.24]).double().expand(161, 3))
    looks = torch.rad2deg(torch.atan2(c2w[:, 0, 2], c2w[:, 2, 2]))  # to the right
    torch.testing.assert_close(looks[[12, 52, 132, 172]], torch.tensor([0.0, 30, -30, 0]).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(looks[14], torch.tensor(1.5).double())  # even within a latent frame
    torch.testing.assert_close(c2w[-1, :3, :3], torch.eye(3).double(), atol=1e-12, rtol=0)
    assert torch.equal(c2w[:13, :3, :3], torch.eye(3).double().expand(13, 3, 3))  # moving does not turn


def test_keys_follow_the_cameras_own_axes_not_the_world():
    c2w = cameras_from_stevo_keys("up-10, w-5", identity()).c2w
    climbed = 5 * 0.08 * torch.tensor([0, -math.sin(math.pi / 6), math.cos(math.pi / 6)], dtype=torch.float64)
    torch.testing.assert_close(c2w[-1, :3, 3], climbed, atol=1e-12, rtol=0)
    tilted = cameras_from_stevo_keys("up-10, right-10", identity()).c2w[-1]
    assert abs(tilted[1, 0]) > 0.1  # the camera's right is no longer level
    assert cameras_from_stevo_keys("up-40", identity()).c2w[-1, 2, 2] < -0.49  # past the zenith: no limit

    level = Cameras.look_at(torch.tensor([0, 0, 1.5]).double(), torch.tensor([1, 0, 1.5]).double())
    own = cameras_from_keys("w-3, right-9", level, degrees_per_latent=5, metres_per_latent=0.3)
    same = cameras_from_stevo_keys("w-3, right-9", level, degrees_per_latent=5, units_per_latent=0.3)
    torch.testing.assert_close(same.c2w, own.c2w, atol=1e-12, rtol=0)  # on level ground both say the same


@pytest.mark.parametrize("frames", [1, 4])
def test_keys_held_together_follow_an_arc(frames):
    c2w = cameras_from_stevo_keys("wright-120", identity(), frames_per_latent=frames).c2w
    radius = 0.08 / math.radians(3)
    torch.testing.assert_close(
        (c2w[:, :3, 3] - torch.tensor([radius, 0, 0]).double()).norm(dim=1),
        torch.full((len(c2w),), radius).double(),
    )
    torch.testing.assert_close(c2w[-1], c2w[0], atol=1e-11, rtol=0)
    turn = torch.zeros(4, 4).double()  # the exponential of this twist is the motion of one latent frame
    turn[0, 2], turn[2, 0], turn[2, 1], turn[1, 2] = 0.05236, -0.05236, 0.05236, -0.05236
    turn[0, 3], turn[2, 3] = -0.08, -0.08
    twisted = cameras_from_stevo_keys("asrightup-9", identity(), degrees_per_latent=math.degrees(0.05236)).c2w[-1]
    torch.testing.assert_close(twisted, torch.linalg.matrix_exp(9 * turn), atol=1e-12, rtol=0)
    both = cameras_from_stevo_keys("wd-2", identity()).c2w[-1, :3, 3]
    torch.testing.assert_close(both, torch.tensor([0.16, 0, 0.16]).double())


def test_a_path_moves_with_its_start_and_keeps_its_dtype():
    start = cameras_from_stevo_keys("up-7, right-11, d-4", identity())
    start = Cameras(start.c2w[-1].float(), start.intrinsics[-1].float())
    moved = cameras_from_stevo_keys(DEFAULT, start)
    assert moved.c2w.dtype == torch.float32 and torch.equal(moved.c2w[0], start.c2w)
    want = start.c2w.double() @ cameras_from_stevo_keys(DEFAULT, identity()).c2w
    torch.testing.assert_close(moved.c2w.double(), want, atol=1e-6, rtol=0)
    assert torch.equal(moved.intrinsics, start.intrinsics.expand(173, 4))


def test_text():
    assert steps_from_stevo_keys(" S-3,Right - 10,wd-2") == [
        Step(("s",), 3),
        Step(("right",), 10),
        Step(("w", "d"), 2),
    ]
    assert [step.keys for step in steps_from_stevo_keys("sdown-1,dup-1")] == [("s", "down"), ("d", "up")]


@pytest.mark.parametrize("bad", ["w+d-3", "wait-4", "q-1", "w-0", "ws-1", "ww-1", "right", "", "w--2", "look away"])
def test_a_bad_item_is_named_with_the_keys(bad):
    with pytest.raises(InputError, match="Item 2 of") as caught:
        steps_from_stevo_keys(f"s-3, {bad}")
    assert "w, s, a, d, up, down, left, right" in str(caught.value)


@pytest.mark.parametrize(
    ("start", "changes", "message"),
    [
        (Cameras(torch.eye(4).repeat(2, 1, 1), torch.ones(2, 4)), {}, "give one"),
        (Cameras(2 * torch.eye(4), torch.ones(4)), {}, "not a rigid transform"),
        (identity(), {"units_per_latent": -1.0}, "speeds of 0 or more"),
        (identity(), {"degrees_per_latent": math.nan}, "speeds of 0 or more"),
        (identity(), {"frames_per_latent": 0}, "speeds of 0 or more"),
    ],
)
def test_bad_starts_and_settings_are_refused(start, changes, message):
    with pytest.raises(InputError, match=message):
        cameras_from_stevo_keys("w-1", start, **changes)
