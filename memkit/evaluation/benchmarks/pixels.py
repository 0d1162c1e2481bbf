"""MSE, PSNR and SSIM of frames with the settings of each benchmark, which differ in range, window, colours and cap.

All frames are uint8 RGB ``[T, H, W, 3]``, and a score is the mean over the frames of a video: PSNR is the mean of the
values in dB, as in all three. `memkit.metrics.mean_psnr`, the PSNR of the mean error, is never above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.metrics.quality import Frames as Checked
from memkit.metrics.quality import check_videos

Frames = UInt8[Tensor, "time height width 3"]

_K1, _K2 = 0.01, 0.03
_MIDDLE = 128.0
_SIGMA = 1.5
_BT601 = (9798, 19235, 3735)  # of red, green and blue in 2¹⁵, as OpenCV has them


@dataclass(frozen=True)
class PixelSettings:
    """How a benchmark measures frames."""

    peak: float
    """Range of the values: MSE is of values from 0 to ``peak``. PSNR and SSIM do not depend on it."""
    psnr_cap: float
    """Largest PSNR in dB, which equal frames have; infinity for none."""
    window: Literal["gauss 11", "uniform 7"]
    """Window of SSIM: a Gaussian of σ = 1.5 over 11×11 pixels, mirrored at the borders (torchmetrics); or the mean of
    7×7 pixels, with sample covariances and without the borders (the default of scikit-image)."""
    gray: bool = False
    """Whether SSIM is that of the luma, rounded to whole numbers; otherwise it is the mean over the three colours."""


MIND = PixelSettings(peak=1.0, psnr_cap=math.inf, window="gauss 11")
MEMOBENCH = PixelSettings(peak=255.0, psnr_cap=99.0, window="gauss 11", gray=True)
ECHO = PixelSettings(peak=255.0, psnr_cap=100.0, window="uniform 7")


def pixel_scores(video: Checked, truth: Checked, settings: PixelSettings) -> dict[str, float]:
    """``mse``, ``psnr`` (dB) and ``ssim``: means over pairs of frames.

    Raises:
        InputError: the videos are not uint8 ``[T, H, W, 3]`` of one shape, or smaller than the window.
    """
    side = int(settings.window.split()[1])
    check_videos(video, truth, side)
    errors = torch.stack([(a.double() - b.double()).square().mean() for a, b in zip(video, truth, strict=True)])
    psnr = (10 * (255.0**2 / errors).log10()).clamp(max=settings.psnr_cap)
    ssim = [_ssim(a, b, settings) for a, b in zip(video, truth, strict=True)]
    mse = errors.mean() * (settings.peak / 255.0) ** 2
    return {"mse": float(mse), "psnr": float(psnr.mean()), "ssim": sum(ssim) / len(ssim)}


def luma(frame: UInt8[Tensor, "height width 3"]) -> UInt8[Tensor, "height width"]:
    """ITU-R BT.601 luma as OpenCV's ``COLOR_RGB2GRAY`` has it, in whole numbers."""
    red, green, blue = frame.int().unbind(-1)
    total = _BT601[0] * red + _BT601[1] * green + _BT601[2] * blue
    return ((total + (1 << 14)) >> 15).to(torch.uint8)


def _ssim(a: Tensor, b: Tensor, settings: PixelSettings) -> float:
    """SSIM of two frames [H, W, 3], for values from 0 to 255.

    Variances do not change where 128 is subtracted from all values first, and float32 is then precise to about 1e-6.
    """
    x, y = ((luma(x)[None] if settings.gray else x.movedim(-1, 0)).float() - _MIDDLE for x in (a, b))
    if settings.window == "gauss 11":
        x, y = (F.pad(image[None], (5, 5, 5, 5), mode="reflect")[0] for image in (x, y))
    mean_x, mean_y, *squares = (_windowed(image, settings) for image in (x, y, x * x, y * y, x * y))
    sample = 1.0 if settings.window == "gauss 11" else 49 / 48
    products = (mean_x * mean_x, mean_y * mean_y, mean_x * mean_y)
    var_x, var_y, covariance = ((mean - own) * sample for mean, own in zip(squares, products, strict=True))
    mean_x, mean_y = mean_x + _MIDDLE, mean_y + _MIDDLE
    c1, c2 = (_K1 * 255.0) ** 2, (_K2 * 255.0) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((alike / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).double().mean())


def _windowed(image: Float[Tensor, "colours h w"], settings: PixelSettings) -> Float[Tensor, "colours h2 w2"]:
    """Weighted means in windows that lie inside of the image."""
    if settings.window == "uniform 7":
        return F.avg_pool2d(image, 7, stride=1)
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    weights = (-(offsets**2) / (2 * _SIGMA**2)).exp()
    weights = (weights / weights.sum()).tolist()
    for dim in (1, 2):  # on the CPU, sums of slices take a tenth of the time of a convolution
        shifted = image.unfold(dim, len(weights), 1)
        image = shifted[..., 0] * weights[0]
        for i, weight in enumerate(weights[1:], 1):
            image.add_(shifted[..., i], alpha=weight)
    return image


# -- sizes -------------------------------------------------------------------------------------------------------------


def area_resize(frames: Frames, height: int, width: int) -> UInt8[Tensor, "time {height} {width} 3"]:
    """Frames resized as by OpenCV's ``INTER_AREA``, up to rounding.

    Made smaller, each pixel is the mean of the area that it covers. Where a side grows, OpenCV interpolates both.
    """
    old = tuple(frames.shape[1:3])
    if old == (height, width):
        return frames
    weights = _covers if height <= old[0] and width <= old[1] else _between
    down, across = weights(old[0], height), weights(old[1], width)
    out = [torch.einsum("ab,bcd,ec->aed", down, frame.double(), across) for frame in frames]
    return torch.stack([(frame + 0.5).floor().clamp(0, 255).to(torch.uint8) for frame in out])


def _covers(old: int, new: int) -> Float[Tensor, "{new} {old}"]:
    """The share of each old pixel in the area of a new one."""
    scale = old / new
    starts = torch.arange(new, dtype=torch.float64)[:, None] * scale
    pixels = torch.arange(old, dtype=torch.float64)[None]
    overlap = torch.minimum(starts + scale, pixels + 1) - torch.maximum(starts, pixels)
    return overlap.clamp(min=0) / scale


def _between(old: int, new: int) -> Float[Tensor, "{new} {old}"]:
    """The weights of two neighbours, by which OpenCV's ``INTER_AREA`` makes images larger."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        left = int(i * old / new)
        share = (i + 1) - (left + 1) * new / old
        share = 0.0 if share <= 0 else share - int(share)
        weights[i, left] += 1 - share
        weights[i, min(left + 1, old - 1)] += share
    return weights


def longest_side(frames: Frames, most: int) -> UInt8[Tensor, "time newheight newwidth 3"]:
    """Frames whose longer side has at most ``most`` pixels, with their aspect ratio, by `area_resize`."""
    height, width = frames.shape[1:3]
    scale = most / max(height, width)
    if scale >= 1:
        return frames
    return area_resize(frames, max(1, round(height * scale)), max(1, round(width * scale)))
