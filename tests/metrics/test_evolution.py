"""The two fixed points of the score, and all that lies between and beside them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.metrics import evolution_score, hidden_state_error, state_evolution

seeds = st.integers(0, 10**6)
DISTANCES = ["rmse", "mae", "mse"]


def steps(seed: int, *shape: int) -> torch.Tensor:
    """Integers from -8 to 8."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A frame, and a video that differs from it by multiples of 8 so that eighths of the way are whole numbers."""
    frozen = steps(seed, 6, 5, 3) + 120
    return frozen.byte(), (frozen + 8 * steps(seed + 1, 4, 6, 5, 3)).byte()


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """A bright block that crosses a grey slope."""
    video = (100 + torch.arange(64) / 2)[None, :, None, None].repeat(17, 1, 64, 3).byte()
    for i in range(17):
        video[i, 20:40, 2 * i : 2 * i + 20] = 240
    return video


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_twin_is_one_and_the_frozen_frame_zero(clip: torch.Tensor, distance) -> None:
    frozen, twin = clip[4], clip[9:]
    assert evolution_score(twin, twin, frozen, distance=distance) == 1
    assert evolution_score(frozen.expand_as(twin), twin, frozen, distance=distance) == 0
    assert evolution_score(255 - twin, twin, frozen, distance=distance) < 0
    late = evolution_score(
        clip[8:-1], twin, frozen, distance=distance
    )  # a frame behind: evolved, not quite as it should
    assert 0 < late < 1


@given(seeds, st.integers(0, 8))
def test_part_of_the_way_is_that_part(seed: int, eighths: int) -> None:
    frozen, twin = pixels(seed)
    blend = (frozen.int() + (twin.int() - frozen.int()) * eighths // 8).byte()
    assert evolution_score(blend, twin, frozen) == pytest.approx(eighths / 8)
    assert evolution_score(blend, twin, frozen, distance="mae") == pytest.approx(eighths / 8)
    assert evolution_score(blend, twin, frozen, distance="mse") == pytest.approx(1 - (1 - eighths / 8) ** 2)


@given(seeds)
def test_rmse_is_pooled_over_frames(seed: int) -> None:
    """Not a mean of ratios: the frame in which the twin hardly moves would rule it."""
    frozen, twin = pixels(seed)
    generated = (twin.int() + steps(seed + 2, *twin.shape)).byte()
    off = ((generated.double() - twin.double()) ** 2).mean().sqrt()
    still = ((frozen.double() - twin.double()) ** 2).mean().sqrt()
    assert evolution_score(generated, twin, frozen) == pytest.approx(1 - (off / still).item())
    order = torch.tensor([2, 0, 3, 1])
    assert evolution_score(generated[order], twin[order], frozen) == pytest.approx(1 - (off / still).item())


@given(seeds, st.integers(1, 5), st.integers(0, 20))
def test_contrast_and_brightness_do_not_matter(seed: int, scale: int, offset: int) -> None:
    frozen, twin = (steps(seed, 6, 5, 3) + 8).byte(), (steps(seed + 1, 4, 6, 5, 3) + 8).byte()
    generated = (steps(seed + 2, 4, 6, 5, 3) + 8).byte()
    for distance in ("rmse", "mae", "mse"):
        score = evolution_score(generated, twin, frozen, distance=distance)
        scaled = (video * scale + offset for video in (generated, twin, frozen))
        assert evolution_score(*scaled, distance=distance) == pytest.approx(score)


def test_a_twin_that_stood_still_has_no_score(clip: torch.Tensor) -> None:
    still = clip[4].expand(3, -1, -1, -1)
    assert math.isnan(evolution_score(still, still, clip[4]))
    assert math.isnan(evolution_score(clip[9:12], still, clip[4]))


def test_a_moving_camera_has_a_frozen_world_for_each_frame(clip: torch.Tensor) -> None:
    frozen, twin = clip[:8], clip[9:]
    assert evolution_score(frozen, twin, frozen) == 0
    assert evolution_score(twin, twin, frozen) == 1
    assert evolution_score(clip[:1].expand_as(twin), twin, frozen) != 0


@pytest.mark.parametrize("per_frame", [False, True])
def test_the_mask_is_all_that_is_looked_at(clip: torch.Tensor, per_frame: bool) -> None:
    frozen, twin = clip[4], clip[9:]
    differs = (twin.int() - frozen.int()).abs().amax(-1) > 0
    mask = differs if per_frame else differs.any(0)
    noisy = torch.where(mask.expand(twin.shape[:3])[..., None], twin, 255 - twin)
    assert evolution_score(noisy, twin, frozen) < 0.5
    assert evolution_score(noisy, twin, frozen, mask) == 1
    assert evolution_score(frozen.expand_as(twin), twin, frozen, mask) == 0
    assert math.isnan(evolution_score(noisy, twin, frozen, ~mask))  # the twin is frozen there
    assert math.isnan(evolution_score(noisy, twin, frozen, torch.zeros_like(mask)))


@given(seeds)
def test_a_perfect_background_changes_nothing(seed: int) -> None:
    frozen, twin = pixels(seed)
    generated = (twin.int() + steps(seed + 2, *twin.shape)).byte()
    pad = lambda video: torch.nn.functional.pad(video, (0, 0, 2, 3, 1, 4), value=77)  # noqa: E731
    score = evolution_score(generated, twin, frozen)
    assert evolution_score(pad(generated), pad(twin), pad(frozen)) == pytest.approx(score)


def test_videos_and_masks_that_cannot_be_used(clip: torch.Tensor) -> None:
    twin, frozen = clip[9:], clip[4]
    for generated in (twin / 255, twin[1:], twin[0]):
        with pytest.raises(InputError):
            evolution_score(generated, twin, frozen)
    for bad in (frozen / 255, frozen[:32], clip[:3], frozen[None]):
        with pytest.raises(InputError):
            evolution_score(twin, twin, bad)
    for mask in (torch.ones(8, 64, 64), torch.ones(64, 64).byte(), torch.ones(64, dtype=torch.bool)):
        with pytest.raises(InputError, match="mask"):
            evolution_score(twin, twin, frozen, mask)


# States


def state(seed: int, dims: int | None, frames: int = 6) -> torch.Tensor:
    shape = (frames,) if dims is None else (frames, dims)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds, st.sampled_from([None, 1, 3]), st.floats(0, 1), st.sampled_from(DISTANCES))
def test_states_part_of_the_way(seed: int, dims: int | None, part: float, distance) -> None:
    truth, frozen = state(seed, dims), state(seed + 1, dims)[0]
    measured = frozen + part * (truth - frozen)
    expected = 1 - (1 - part) ** 2 if distance == "mse" else part
    score = state_evolution(measured, truth, frozen, distance)
    assert score.value == pytest.approx(expected) and score.found == 1
    assert state_evolution(truth, truth, frozen, distance).value == 1
    assert state_evolution(frozen.expand_as(truth), truth, frozen, distance).value == 0


@given(seeds, st.sampled_from([None, 2]), st.floats(0.1, 100), st.floats(-10, 10))
def test_units_and_origin_do_not_matter(seed: int, dims: int | None, scale: float, offset: float) -> None:
    truth, measured, frozen = state(seed, dims), state(seed + 1, dims), state(seed + 2, dims)[0]
    score = state_evolution(measured, truth, frozen)
    moved = [x * scale + offset for x in (measured, truth, frozen)]
    assert state_evolution(moved[0], moved[1], moved[2]).value == pytest.approx(score.value)
    error = hidden_state_error(measured, truth, 2.0).value
    assert hidden_state_error(measured * scale, truth * scale, 2.0 * scale).value == pytest.approx(error)


@given(seeds, st.sampled_from([None, 2]), st.sets(st.integers(0, 5), max_size=5))
def test_frames_not_found_are_counted_and_have_no_part(seed: int, dims: int | None, lost: set[int]) -> None:
    truth, measured, frozen = state(seed, dims), state(seed + 1, dims), state(seed + 2, dims)[0]
    kept = [i for i in range(6) if i not in lost]
    gaps = measured.clone()
    for i in lost:
        gaps[(i,) if dims is None else (i, i % 2)] = math.nan  # one coordinate unknown, and the state is
    for score, whole in (
        (state_evolution(gaps, truth, frozen), state_evolution(measured[kept], truth[kept], frozen)),
        (hidden_state_error(gaps, truth, 2.0), hidden_state_error(measured[kept], truth[kept], 2.0)),
    ):
        assert score.value == pytest.approx(whole.value) and whole.found == 1
        assert score.found == pytest.approx(len(kept) / 6)


def test_nothing_found_or_nothing_changed_has_no_score() -> None:
    truth = torch.tensor([1.0, 2.0])
    for score in (state_evolution(truth * math.nan, truth, 0.0), hidden_state_error(truth * math.nan, truth, 1.0)):
        assert math.isnan(score.value) and score.found == 0
    still = state_evolution(truth, torch.tensor([3.0, 3.0]), 3.0)
    assert math.isnan(still.value) and still.found == 1


def test_numbers_of_a_level_and_of_a_place() -> None:
    truth = torch.tensor([0.5, 1.0])
    assert state_evolution(torch.tensor([0.5, 0.5]), truth, 0.5).value == 0
    assert state_evolution(torch.tensor([0.0, 0.5]), truth, 0.5, "mae").value == pytest.approx(-1)
    assert hidden_state_error(torch.tensor([0.75, 0.5]), truth, 1.5).value == pytest.approx(0.25)
    place = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert hidden_state_error(place + torch.tensor([3.0, 4.0]), place, 10).value == pytest.approx(0.5)


@given(seeds)
def test_no_axis_is_special_to_the_error_of_a_place(seed: int) -> None:
    truth, measured = state(seed, 3), state(seed + 1, 3)
    rotation = torch.linalg.qr(state(seed + 2, 3, frames=3)).Q
    turned = hidden_state_error(measured @ rotation, truth @ rotation, 2.0).value
    assert turned == pytest.approx(hidden_state_error(measured, truth, 2.0).value)


@given(seeds, st.sampled_from(DISTANCES), st.floats(0, 1), st.floats(0, 1))
def test_nearer_to_the_twin_is_a_higher_score(seed: int, distance, a: float, b: float) -> None:
    assume(abs(a - b) > 1e-3)
    truth, frozen = state(seed, 2), state(seed + 1, 2)[0]
    near, far = (state_evolution(frozen + part * (truth - frozen), truth, frozen, distance).value for part in (a, b))
    assert (near > far) == (a > b)


def test_states_that_cannot_be_used() -> None:
    truth = torch.tensor([1.0, 2.0])
    for measured, true in ((truth, truth[:1]), (truth[:0], truth[:0]), (truth, torch.tensor([1.0, math.nan]))):
        with pytest.raises(InputError, match="shape|finite"):
            state_evolution(measured, true, 0.0)
        with pytest.raises(InputError, match="shape|finite"):
            hidden_state_error(measured, true, 1.0)
    for frozen in (math.nan, torch.zeros(2)):
        with pytest.raises(InputError, match="frozen"):
            state_evolution(truth, truth, frozen)
    for extent in (0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="extent"):
            hidden_state_error(truth, truth, extent)
