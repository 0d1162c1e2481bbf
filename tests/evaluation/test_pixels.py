"""MSE, PSNR and SSIM with each benchmark's settings, against torchmetrics, scikit-image's formula and definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from memkit.errors import InputError
from memkit.evaluation.benchmarks.pixels import ECHO, MEMOBENCH, MIND, area_resize, longest_side, luma, pixel_scores
from tests.helpers.benchmark_data import frames_of

VIDEO = frames_of(2, 37, 53)
OTHER = (VIDEO.float() + 25 * torch.randn(VIDEO.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255).byte()


def as_torchmetrics(a: torch.Tensor, b: torch.Tensor, peak: float) -> tuple[float, float]:
    """Means over frames of PSNR and SSIM; [T, H, W, C] with values from 0 to ``peak``."""
    pairs = [(x.movedim(-1, 0)[None].double(), y.movedim(-1, 0)[None].double()) for x, y in zip(a, b, strict=True)]
    psnr = [peak_signal_noise_ratio(x, y, data_range=peak) for x, y in pairs]
    ssim = [structural_similarity_index_measure(x, y, data_range=peak) for x, y in pairs]
    return float(torch.stack(psnr).mean()), float(torch.stack(ssim).mean())  # type: ignore[arg-type]


def test_mind_is_torchmetrics_on_colours_from_0_to_1():
    found = pixel_scores(VIDEO, OTHER, MIND)
    psnr, ssim = as_torchmetrics(VIDEO / 255.0, OTHER / 255.0, 1.0)
    error = (VIDEO / 255.0 - OTHER / 255.0).square().mean()
    assert found == pytest.approx({"mse": float(error), "psnr": psnr, "ssim": ssim}, abs=1e-5)


def test_memobench_has_the_ssim_of_luma_from_0_to_255():
    found = pixel_scores(VIDEO, OTHER, MEMOBENCH)
    gray = [torch.stack([luma(frame) for frame in video])[..., None] for video in (VIDEO, OTHER)]
    weights = torch.tensor([0.299, 0.587, 0.114])
    assert ((gray[0][..., 0] - VIDEO.float() @ weights).abs() < 0.51).all()
    psnr, _ = as_torchmetrics(VIDEO, OTHER, 255.0)
    _, ssim = as_torchmetrics(*gray, 255.0)
    assert (found["psnr"], found["ssim"]) == pytest.approx((psnr, ssim), abs=1e-5)


def test_echo_memory_is_scikit_image_with_its_defaults():
    """`skimage.metrics.structural_similarity(channel_axis=-1, data_range=255)`, written out with scipy's filter."""

    def ssim(x: np.ndarray, y: np.ndarray) -> float:
        mean = [uniform_filter(each, 7)[3:-3, 3:-3] for each in (x, y, x * x, y * y, x * y)]
        var_x, var_y = (49 / 48 * (mean[i + 2] - mean[i] ** 2) for i in (0, 1))
        both = 49 / 48 * (mean[4] - mean[0] * mean[1])
        top = (2 * mean[0] * mean[1] + 2.55**2) * (2 * both + 7.65**2)
        return float((top / ((mean[0] ** 2 + mean[1] ** 2 + 2.55**2) * (var_x + var_y + 7.65**2))).mean())

    a, b = (video.double().numpy() for video in (VIDEO, OTHER))
    expected = np.mean([ssim(x[..., c], y[..., c]) for x, y in zip(a, b, strict=True) for c in range(3)])
    found = pixel_scores(VIDEO, OTHER, ECHO)
    assert found["ssim"] == pytest.approx(expected, abs=1e-6) and found["mse"] == pytest.approx(((a - b) ** 2).mean())
    assert found["psnr"] == pytest.approx(
        np.mean([10 * math.log10(255**2 / e) for e in ((a - b) ** 2).mean((1, 2, 3))])
    )


@pytest.mark.parametrize(("settings", "cap"), [(MIND, math.inf), (MEMOBENCH, 99.0), (ECHO, 100.0)])
def test_equal_frames_have_the_highest_psnr(settings, cap):
    assert pixel_scores(VIDEO, VIDEO, settings) == {"mse": 0.0, "psnr": cap, "ssim": pytest.approx(1.0)}
    with pytest.raises(InputError, match="same shape"):
        pixel_scores(VIDEO, OTHER[:1], settings)


@pytest.mark.parametrize("size", [(37, 53), (20, 31), (1, 1), (36, 7)])
def test_a_smaller_image_has_the_mean_of_the_area_of_each_pixel(size):
    height, width = size
    fine = VIDEO.double().repeat_interleave(height, 1).repeat_interleave(width, 2)  # each pixel is height×width cells
    mean = fine.view(2, height, 37, width, 53, 3).mean((2, 4))
    assert ((area_resize(VIDEO, height, width).double() - mean).abs() <= 0.5 + 1e-9).all()


def test_the_longer_side_is_bounded_and_no_image_grows():
    assert longest_side(VIDEO, 53) is VIDEO and longest_side(VIDEO, 20).shape == (2, 14, 20, 3)
    flat = torch.full((1, 5, 6, 3), 77, dtype=torch.uint8)
    assert (area_resize(flat, 12, 4) == 77).all() and (area_resize(flat, 9, 15) == 77).all()
