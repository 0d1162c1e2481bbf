"""Which frames see the same again, and what they are compared by."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.metrics import compare, psnr, revisit_pairs, ssim
from memkit.metrics.revisit import revisit


def path(yaw: list[float], x: list[float] | None = None, dtype: torch.dtype = torch.float64) -> Cameras:
    """Cameras turned by ``yaw`` degrees about the vertical, at ``x`` metres to the side."""
    angle = torch.deg2rad(torch.tensor(yaw, dtype=torch.float64))
    eye = torch.zeros(len(yaw), 3, dtype=torch.float64)
    eye[:, 0] = torch.tensor(x or [0.0] * len(yaw))
    ahead = torch.stack([angle.sin(), angle.cos(), torch.zeros_like(angle)], dim=-1)
    cameras = Cameras.look_at(eye, eye + ahead)
    return Cameras(cameras.c2w.to(dtype), cameras.intrinsics.to(dtype))


def there_and_back(most: float, steps: int) -> list[float]:
    out = [most * i / steps for i in range(steps + 1)]
    return out + out[-2::-1]


@given(st.floats(90, 180), st.integers(8, 40), st.sampled_from([torch.float32, torch.float64]))
def test_a_turn_there_and_back_gives_the_mirror_pairs(most: float, steps: int, dtype: torch.dtype) -> None:
    pairs = revisit_pairs(path(there_and_back(most, steps), dtype=dtype), away_degrees=30.001)
    # frame i is away from the turning point, and so left in between, if it is more than 30° from it
    left = [i for i in range(steps + 1) if most - most * i / steps > 30.001]
    assert pairs == [(i, 2 * steps - i) for i in reversed(left)]


def test_walking_away_and_back_is_a_revisit_too() -> None:
    x = there_and_back(2.0, 8)
    assert revisit_pairs(path([0.0] * 17, x)) == [(3, 13), (2, 14), (1, 15), (0, 16)]
    assert revisit_pairs(path([0.0] * 17, x), away_metres=1.6) == [(1, 15), (0, 16)]


def test_without_having_been_away_there_is_no_revisit() -> None:
    assert revisit_pairs(path([0.0] * 20)) == []
    assert revisit_pairs(path([0.2 * (i % 2) for i in range(20)])) == []  # trembling
    assert revisit_pairs(path(there_and_back(25, 10))) == []
    assert revisit_pairs(path([i * 10.0 for i in range(30)])) == []  # 290°: away, and never back
    assert revisit_pairs(path([])) == [] == revisit_pairs(path([0.0]))


def test_a_full_turn_is_a_revisit() -> None:
    assert revisit_pairs(path([i * 10.0 for i in range(39)])) == [(0, 36), (1, 37), (2, 38)]


def test_the_nearest_pose_then_the_latest() -> None:
    assert revisit_pairs(path([0.0, 0.5, 90.0, 0.4])) == [(1, 3)]
    assert revisit_pairs(path([0.5, 0.1, 90.0, 0.4])) == [(0, 3)]
    assert revisit_pairs(path([0.0, 0.0, 90.0, 0.0, 0.0])) == [(1, 3), (1, 4)]
    assert revisit_pairs(path([0.0, 90.0, 0.0, 90.0, 0.0])) == [(0, 2), (1, 3), (2, 4)]
    # of a metre and a degree, the worse in shares of its tolerance counts
    assert revisit_pairs(path([0.0, 0.9, 90.0, 0.0], [0.04, 0.0, 0.0, 0.0])) == [(0, 3)]
    assert revisit_pairs(path([0.9, 90.0, 0.0], [0.04, 0.0, 0.0])) == [(0, 2)]


def test_tolerances_and_gap() -> None:
    yaw = [0.0, 40.0, 2.0]
    assert revisit_pairs(path(yaw)) == []
    assert revisit_pairs(path(yaw), degrees=2.1) == [(0, 2)]
    assert revisit_pairs(path(yaw), degrees=2.1, away_degrees=39) == []
    assert revisit_pairs(path(yaw), degrees=2.1, min_gap=2) == [(0, 2)]
    assert revisit_pairs(path(yaw), degrees=2.1, min_gap=3) == []
    aside = path([0.0, 40.0, 0.0], [0.0, 0.0, 0.1])
    assert revisit_pairs(aside) == []
    assert revisit_pairs(aside, metres=0.11) == [(0, 2)]


def test_a_zoom_is_another_view() -> None:
    cameras = path(there_and_back(90, 8))
    zoom = torch.ones_like(cameras.intrinsics)
    zoom[-1, :2] = 1.1
    assert revisit_pairs(cameras)[-2:] == [(1, 15), (0, 16)]
    assert revisit_pairs(Cameras(cameras.c2w, cameras.intrinsics * zoom))[-1] == (1, 15)


@given(st.integers(0, 10**6))
def test_the_world_has_no_origin_and_no_north(seed: int) -> None:
    rng = random.Random(seed)
    yaw = [rng.choice([0.0, 0.4, 45.0, 90.0]) for _ in range(12)]
    x = [rng.choice([0.0, 0.02, 1.5]) for _ in range(12)]
    cameras = path(yaw, x)
    generator = torch.Generator().manual_seed(seed)
    motion = torch.eye(4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    motion[:3, :3] = rotation * torch.linalg.det(rotation).sign()
    motion[:3, 3] = 10 * torch.randn(3, generator=generator, dtype=torch.float64)
    pairs = revisit_pairs(cameras)
    assert revisit_pairs(Cameras(motion @ cameras.c2w, cameras.intrinsics)) == pairs
    assert all(j - i >= 2 for i, j in pairs) and len({j for _, j in pairs}) == len(pairs)


def test_paths_and_settings_that_cannot_be_used() -> None:
    cameras = path([0.0, 90.0, 0.0])
    broken = Cameras(cameras.c2w.clone(), cameras.intrinsics)
    broken.c2w[1, 0, 3] = math.nan
    for bad in (broken, Cameras(cameras.c2w[None], cameras.intrinsics[None])):
        with pytest.raises(InputError, match="one path of finite poses"):
            revisit_pairs(bad)
    broken.c2w[1] = cameras.c2w[1] * 2
    with pytest.raises(InputError, match="pose 1 is not a rigid transform"):
        revisit_pairs(broken)
    for settings in ({"metres": 0}, {"degrees": -1.0}, {"metres": 2.0}, {"degrees": 40}, {"min_gap": 0}):
        with pytest.raises(InputError, match="positive tolerances|give a (finite|whole) number"):
            revisit_pairs(cameras, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """A bright column that crosses a grey slope."""
    video = (100 + torch.arange(64) / 2)[None, :, None, None].repeat(17, 1, 64, 3).byte()
    for i in range(17):
        video[i, 10:50, 3 * i : 3 * i + 9] = 240
    return video


def test_the_same_seen_again(clip: torch.Tensor) -> None:
    palindrome = torch.cat([clip[:9], clip[:8].flip(0)])
    pairs = revisit_pairs(path(there_and_back(120, 8)))
    again = revisit(palindrome, pairs)
    assert again.mean_ssim == 1 and again.mean_psnr == math.inf and math.isnan(again.mean_lpips)
    changed = palindrome.clone()
    i, j = pairs[0]
    changed[j] = 255 - changed[j]
    again = revisit(changed, pairs)
    assert again.ssim[1:].eq(1).all() and again.ssim[0] < 1
    assert again.psnr[0] == psnr(changed[i : i + 1], changed[j : j + 1])
    assert again.mean_psnr == pytest.approx(again.psnr[0].item() + 10 * math.log10(len(pairs)), abs=1e-4)


def test_frames_of_no_pair_do_not_count(clip: torch.Tensor) -> None:
    before = revisit(clip, [(0, 9), (3, 9)])
    changed = clip.clone()
    changed[[1, 2, 4, 16]] = 0
    after = revisit(changed, [(0, 9), (3, 9)])
    assert after.psnr.equal(before.psnr) and after.ssim.equal(before.ssim)


def test_against_the_truth(clip: torch.Tensor) -> None:
    other = clip.flip(2)
    result = compare(other, clip, lpips=None)
    assert result.psnr.equal(psnr(other, clip)) and result.ssim.equal(ssim(other, clip)) and result.lpips is None
    assert result.mean_ssim == pytest.approx(result.ssim.mean().item())


def test_lpips_is_measured_where_asked(clip: torch.Tensor, tmp_path) -> None:
    from torchvision import models

    from memkit.metrics import Lpips

    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeeze.pth")
    lpips = Lpips("squeeze", tmp_path / "squeeze.pth", device="cpu")
    result = revisit(clip, [(0, 9), (3, 3)], lpips)
    assert result.lpips is not None and result.lpips.equal(lpips(clip[[9, 3]], clip[[0, 3]]))
    assert result.mean_lpips == pytest.approx(result.lpips.mean().item())
    none = revisit(clip, [], lpips)
    assert none.lpips is not None and not len(none.lpips)


def test_no_pairs_is_nan_not_zero(clip: torch.Tensor) -> None:
    none = revisit(clip, [])
    assert len(none.psnr) == len(none.ssim) == 0
    assert math.isnan(none.mean_psnr) and math.isnan(none.mean_ssim) and math.isnan(none.mean_lpips)


@pytest.mark.parametrize("pair", [(0, 17), (-1, 3)])
def test_a_pair_that_the_video_lacks(clip: torch.Tensor, pair: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="not in a video of 17 frames"):
        revisit(clip, [(0, 9), pair])
