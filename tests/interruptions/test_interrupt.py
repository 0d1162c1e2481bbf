"""Interrupted clips are clean where they say so, turn as cameras do, and always leave a seed and a recovery."""

import inspect
import json
import math
import random
from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.interruptions import (
    KINDS,
    CameraLoop,
    CameraOff,
    Fog,
    Interruption,
    LightsOff,
    LookAway,
    Occluder,
    Timing,
    interrupt,
)
from memkit.interruptions.apply import sample_interruption_settings
from memkit.interruptions.rendering import Look, keep_all

HEIGHT, WIDTH = 14, 20
kinds = st.builds(lambda kind, seed: kind.draw(random.Random(seed)), st.sampled_from(KINDS), st.integers(0, 999))
shares = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(sorted)


def clip(num_frames: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num_frames, height, width, 3), dtype=torch.uint8, generator=random)


def ramps(num_frames: int, height: int, width: int) -> torch.Tensor:
    """Red tells how far to the right a point is, green how far down."""
    u, v = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    image = torch.stack([u.expand(height, width), v[:, None].expand(height, width), torch.zeros(height, width)], -1)
    return (255 * image).round().byte().expand(num_frames, -1, -1, -1)


@settings(max_examples=40, deadline=None)
@given(by=kinds, num_frames=st.integers(9, 45))
def test_clean_frames_are_those_of_the_twin_to_the_bit(by: Interruption, num_frames: int) -> None:
    frames = clip(num_frames)
    before = frames.clone()
    result = interrupt(frames, 8, by)
    start, stop = result.spans.degraded
    assert torch.equal(frames, before)
    assert result.video.dtype == torch.uint8 and result.video.shape == result.twin.shape == frames.shape
    assert torch.equal(result.video[:start], result.twin[:start])
    assert torch.equal(result.video[stop:], result.twin[stop:])
    assert isinstance(by, LookAway) or torch.equal(result.twin, frames)
    assert isinstance(by, LookAway) or torch.equal(result.c2w, torch.eye(4).expand(num_frames, 4, 4))
    assert torch.equal(interrupt(frames, 8, by).video, result.video)


@settings(max_examples=100, deadline=None)
@given(at=shares, num_frames=st.integers(9, 200), cut=st.booleans())
def test_seed_and_recovery_are_clean_for_any_length(at: list[float], num_frames: int, cut: bool) -> None:
    assume(at[3] - at[0] > 0.3)
    at = [at[0], at[0], at[3], at[3]] if cut else at
    result = interrupt(clip(num_frames, 1, 1), 8, LightsOff(timing=Timing(*at)))
    seed, degraded, recovery = result.spans.seed, result.spans.degraded, result.spans.recovery
    assert seed[0] == 0 < seed[1] == degraded[0] < degraded[1] == recovery[0] < recovery[1] == num_frames
    assert (result.amount[degraded[0] : degraded[1]] > 0).all()
    assert (result.amount[: seed[1]] == 0).all() and (result.amount[recovery[0] :] == 0).all()

    dirty = result.amount > 0
    latent_dirty = [bool(dirty[max(0, 4 * i - 3) : 4 * i + 1].any()) for i in range((num_frames - 1) // 4 + 1)]
    spans = result.spans.latent()
    assert spans.seed[0] == 0 < spans.seed[1] == spans.degraded[0] < spans.degraded[1] == spans.recovery[0]
    assert spans.recovery[0] < spans.recovery[1] == len(latent_dirty)
    assert latent_dirty == [spans.degraded[0] <= i < spans.degraded[1] for i in range(len(latent_dirty))]


def test_default_timing_is_that_of_the_paper_at_81_frames() -> None:
    amount = Occluder().timing.amount(81)
    assert (amount[:25] == 0).all() and (amount[25:48] > 0).all() and (amount[48:] == 0).all()
    assert (amount == 1).nonzero().flatten().tolist() == list(range(30, 43))
    assert (amount[24:31].diff() > 0).all() and (amount[42:49].diff() < 0).all()
    loop = CameraLoop().timing.amount(81)
    assert (loop == 1).nonzero().flatten().tolist() == [40]
    assert (loop[69:] == 0).all() and loop[68] > 0
    assert CameraOff().timing.amount(81).unique().tolist() == [0, 1]


def test_a_cut_that_is_drawn_in_ends_with_the_last_latent_frame() -> None:
    for num_frames in range(9, 400, 4):
        amount = Timing(0.1, 0.1, 0.99, 0.99).amount(num_frames)
        assert (amount[-4:] == 0).all() and amount[-5] == 1 and amount[0] == 0


def test_lights_off_leaves_four_per_cent() -> None:
    frames = clip(81)
    result = interrupt(frames, 16, LightsOff())
    dark = (frames.float() * 0.04).round().byte()
    assert torch.equal(result.video[30:43], dark[30:43])
    means = result.video[24:31].float().mean((1, 2, 3))
    assert (means.diff() < 0).all()


@settings(max_examples=25, deadline=None)
@given(
    degrees=st.floats(-25, 25),
    axis=st.sampled_from(["yaw", "pitch"]),
    keep=st.floats(0.3, 0.9),
    fov=st.floats(40, 80),
    loops=st.booleans(),
)
def test_turned_view_is_the_projection_of_its_cameras_rays(
    degrees: float, axis: Any, keep: float, fov: float, loops: bool
) -> None:
    frames = ramps(21, 48, 64)
    kind = CameraLoop if loops else LookAway
    result = interrupt(frames, 8, kind(degrees=degrees, axis=axis, keep=keep, fov_degrees=fov, beyond="black"))
    focal = 0.5 / math.tan(math.radians(fov / 2))
    _, rays = Cameras(result.c2w, result.intrinsics).rays(48, 64)
    u = focal * rays[..., 0] / rays[..., 2] + 0.5
    v = focal * 64 / 48 * rays[..., 1] / rays[..., 2] + 0.5
    inside = (u > 0.5 / 64) & (u < 1 - 0.5 / 64) & (v > 0.5 / 48) & (v < 1 - 0.5 / 48)
    outside = (u < -0.5 / 64) | (u > 1 + 0.5 / 64) | (v < -0.5 / 48) | (v > 1 + 0.5 / 48)
    expected = torch.stack([255 * u, 255 * v, torch.zeros_like(u)], -1)
    assert inside[0].any()  # a strong turn leaves nothing of the picture in view
    assert (result.video.float() - expected)[inside].abs().max() <= 1.01
    assert (result.video[outside] == 0).all()


@pytest.mark.parametrize(("axis", "channel", "sign"), [("yaw", 0, 1), ("pitch", 1, -1)])
@pytest.mark.parametrize("degrees", [-20.0, 10.0, 20.0])
def test_a_turn_moves_the_principal_point_by_f_tan(axis: Any, channel: int, sign: int, degrees: float) -> None:
    result = interrupt(ramps(33, 61, 61), 8, LookAway(degrees=degrees, axis=axis, keep=0.3))
    peak = int(result.amount.argmax())
    assert result.amount[peak] == 1
    focal = 0.5 / math.tan(math.radians(30))
    expected = 255 * (0.5 + sign * focal * math.tan(math.radians(degrees)))
    assert abs(result.video[peak, 30, 30, channel].item() - expected) <= 1
    assert abs(result.video[peak, 30, 30, 1 - channel].item() - 127.5) <= 1


def test_camera_loop_goes_and_comes_the_same_way() -> None:
    result = interrupt(clip(81), 16, CameraLoop())
    assert torch.equal(result.c2w[69:], torch.eye(4).expand(12, 4, 4))
    assert torch.equal(result.c2w[0], torch.eye(4))
    assert torch.allclose(result.c2w[41:], result.c2w[:40].flip(0), atol=1e-6)
    rotation = result.c2w[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3), atol=1e-6)
    ahead = torch.tensor([math.sin(math.pi / 9), 0.0, math.cos(math.pi / 9)])
    assert torch.allclose(rotation[40, :, 2], ahead, atol=1e-6)


@pytest.mark.parametrize("kind", [LookAway, CameraLoop])
def test_a_turn_by_nothing_changes_nothing(kind: type[LookAway]) -> None:
    frames = clip(33)
    result = interrupt(frames, 8, kind(degrees=0.0))
    assert torch.equal(result.video, result.twin) and not torch.equal(result.twin, frames)
    assert torch.equal(interrupt(frames, 8, kind(degrees=0.0, keep=1.0)).video, frames)


@pytest.mark.parametrize("axis", ["yaw", "pitch"])
@pytest.mark.parametrize(("degrees", "fov"), [(20.0, 60.0), (-10.0, 50.0), (25.0, 100.0)])
def test_keep_all_is_the_largest_share_without_a_beyond(axis: Any, degrees: float, fov: float) -> None:
    white = torch.full((9, 64, 64, 3), 255, dtype=torch.uint8)
    keep = keep_all(degrees, fov)

    def darkest(keep: float) -> int:
        by = LookAway(degrees=degrees, axis=axis, keep=keep, fov_degrees=fov, beyond="black")
        return int(interrupt(white, 8, by).video.min())

    assert darkest(keep) > 0 and darkest(1.25 * keep) == 0
    with pytest.raises(InputError, match="less than half"):
        keep_all(30, 60)


def test_mirrored_beyond_has_no_black() -> None:
    white = torch.full((9, 16, 16, 3), 255, dtype=torch.uint8)
    assert interrupt(white, 8, LookAway(keep=1.0)).video.min() == 255
    assert interrupt(white, 8, LookAway(keep=1.0, beyond="black")).video.min() == 0


@pytest.mark.parametrize("look", get_args(Look))
@pytest.mark.parametrize("side", ["left", "top"])
def test_full_cover_hides_all(look: Any, side: Any) -> None:
    by = Occluder(look=look, side=side, cover=1.0, seed=5)
    a, b = (interrupt(clip(81, 24, 32, seed), 16, by) for seed in (1, 2))
    hold = a.amount == 1
    lid = 4 if look == "box" else 0  # the upper corners of a box are cut off
    assert torch.equal(a.video[hold][:, lid:], b.video[hold][:, lid:])
    assert a.video[hold].float().std((1, 2)).max() > 1  # it has a texture


@pytest.mark.parametrize("look", get_args(Look))
@pytest.mark.parametrize(
    ("side", "leave", "first", "last"),
    [
        ("left", "through", "left", "right"),
        ("right", "back", "right", "right"),
        ("top", "back", "top", "top"),
        ("bottom", "through", "bottom", "top"),
    ],
)
def test_occluders_come_and_leave_by_their_sides(look: Any, side: Any, leave: Any, first: str, last: str) -> None:
    frames = torch.full((81, 32, 32, 3), 3, dtype=torch.uint8)
    video = interrupt(frames, 16, Occluder(look=look, side=side, leave=leave)).video
    changed = (video != frames).any(-1)
    border = {"left": (slice(None), 0), "right": (slice(None), -1), "top": (0,), "bottom": (-1,)}
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    seen = changed.any((1, 2)).nonzero().flatten().tolist()
    for frame, edge in ((seen[0], first), (seen[-1], last)):
        assert changed[frame][border[edge]].any() and not changed[frame][border[opposite[edge]]].any()


@pytest.mark.parametrize("by", [Occluder(look="curtain", seed=1), Fog(seed=1)])
def test_the_seed_decides_the_look(by: Occluder | Fog) -> None:
    frames = clip(25)
    again, other = type(by)(**{**vars(by)}), type(by)(**{**vars(by), "seed": 2})
    assert torch.equal(interrupt(frames, 8, by).video, interrupt(frames, 8, again).video)
    assert not torch.equal(interrupt(frames, 8, by).video, interrupt(frames, 8, other).video)


def test_camera_off_is_black_or_holds_the_last_frame() -> None:
    frames = clip(81)
    assert (interrupt(frames, 16, CameraOff()).video[25:48] == 0).all()
    held = interrupt(frames, 16, CameraOff(show="last")).video
    assert torch.equal(held[25:48], frames[24:25].expand(23, -1, -1, -1))


def test_fog_is_white_and_hides() -> None:
    frames = (clip(81) > 127).byte() * 255
    result = interrupt(frames, 16, Fog())
    hold = result.video[result.amount == 1].float()
    assert hold.min() > 180 and (hold.amax(-1) - hold.amin(-1)).max() < 32
    assert result.video[24].float().std() > 100


def test_fog_is_never_drawn_for_training() -> None:
    rng = random.Random(0)
    drawn = [sample_interruption_settings(rng) for _ in range(300)]
    assert {type(by) for by in drawn} == {Occluder, LightsOff, LookAway, CameraLoop, CameraOff}
    assert not any(by.HELD_OUT for by in drawn) and Fog.HELD_OUT
    assert {by.look for by in drawn if isinstance(by, Occluder)} == set(get_args(Look))
    assert len({by.timing for by in drawn}) > 250
    again = random.Random(0)
    assert [sample_interruption_settings(again) for _ in range(300)] == drawn


@settings(max_examples=30, deadline=None)
@given(by=kinds)
def test_the_record_is_json_and_makes_the_settings_again(by: Interruption) -> None:
    result = interrupt(clip(81, 2, 2), 16, by)
    record = json.loads(json.dumps(result.record()))
    timing = Timing(**record["settings"].pop("timing"))
    kind = {kind.NAME: kind for kind in KINDS}[record["name"]]
    assert kind(timing=timing, **record["settings"]) == by
    assert tuple(record["frames"]["degraded"]) == result.spans.degraded
    assert record["held_out"] == (kind is Fog)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="8 frames is too short"):
        interrupt(clip(8), 8, LightsOff())
    with pytest.raises(InputError, match="positive rate"):
        interrupt(clip(9), 0, LightsOff())
    with pytest.raises(InputError, match="No frame of 9"):
        interrupt(clip(9), 8, LightsOff(timing=Timing(0.26, 0.26, 0.27, 0.27)))
    with pytest.raises(InputError, match="behind"):
        interrupt(clip(9), 8, LookAway(degrees=60.0, fov_degrees=120.0, keep=0.9))
    for at in ((0.5, 0.4, 0.6, 0.7), (-0.1, 0.2, 0.3, 0.4), (0.3, 0.3, 0.3, 0.3), (0.1, math.nan, 0.3, 0.4)):
        with pytest.raises(InputError, match="not ascend"):
            Timing(*at)
    with pytest.raises(InputError, match="cover is 1.5"):
        Occluder(cover=1.5)
    with pytest.raises(InputError, match="gain is nan"):
        LightsOff(gain=math.nan)


def test_an_unknown_word_is_named() -> None:
    check = inspect.unwrap(Occluder.__post_init__)
    by = Occluder()
    object.__setattr__(by, "look", "umbrella")
    with pytest.raises(InputError, match="umbrella.*cardboard"):
        check(by)
