"""Whether a place looks the same when the camera returns to it (revisit comparison; MemLearner, Evaluation).

The paper turns the camera by 90° to 180° and back, and averages over the matched outbound and return frames. It does
not say how frames are matched on a path that returns less exactly: the rule of `revisit_pairs` is our reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_rigid
from memkit.checks import check_number, check_whole
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.metrics.quality import Frames, Lpips, check_videos, mean_psnr, psnr, ssim

SAME_INTRINSICS = 1e-3  # share of the image's width or height: below one pixel in all worlds
TIE = 1e-6  # share of the tolerances; poses nearer than this are equal up to rounding


@dataclass(frozen=True)
class Comparison:
    """Metrics of each pair of frames compared."""

    psnr: Float[Tensor, " pairs"]
    """In dB; inf where the frames are equal."""
    ssim: Float[Tensor, " pairs"]
    lpips: Float[Tensor, " pairs"] | None

    __repr__ = with_shapes

    @property
    def mean_psnr(self) -> float:
        """PSNR of the mean squared error, see `memkit.metrics.quality.mean_psnr`; NaN without pairs."""
        return mean_psnr(self.psnr)

    @property
    def mean_ssim(self) -> float:
        """NaN without pairs."""
        return float(self.ssim.mean())

    @property
    def mean_lpips(self) -> float:
        """NaN without pairs, or where LPIPS was not measured."""
        return math.nan if self.lpips is None else float(self.lpips.mean())


def compare(generated: Frames, truth: Frames, lpips: Lpips | None = None) -> Comparison:
    """Each generated frame against the true one, uint8 ``[T, H, W, 3]`` (the paper's GT comparison).

    Leave conditioning frames out of both. Raises `InputError` as `memkit.metrics.quality.ssim` does.
    """
    return Comparison(psnr(generated, truth), ssim(generated, truth), lpips and lpips(generated, truth))


def revisit(video: Frames, pairs: Sequence[tuple[int, int]], lpips: Lpips | None = None) -> Comparison:
    """Frames of a generated video, uint8 ``[T, H, W, 3]``, against its own earlier frames of the same pose.

    ``pairs`` are those of `revisit_pairs`; drop pairs whose later frame is a conditioning
    frame. A frozen or blank video is consistent too: read this together with `compare`. Raises `InputError` for a pair
    outside the video, and as `memkit.metrics.quality.ssim` does.
    """
    check_videos(video, video)
    for pair in pairs:
        if not all(0 <= i < len(video) for i in pair):
            raise InputError(f"The pair {pair} is not in a video of {len(video)} frames; give one frame per camera.")
    if not pairs:
        return Comparison(torch.empty(0), torch.empty(0), None if lpips is None else torch.empty(0))
    earlier, later = (list(frames) for frames in zip(*pairs, strict=True))
    return compare(video[later], video[earlier], lpips)


def revisit_pairs(
    cameras: Cameras,
    metres: float = 0.05,
    degrees: float = 1.0,
    away_metres: float = 1.0,
    away_degrees: float = 30.0,
    min_gap: int = 1,
) -> list[tuple[int, int]]:
    """Frames ``(earlier, later)`` of one path, cameras ``[F]``, with the same view, between which the camera was away.

    A frame is *away* from a later one if it is farther than ``away_metres`` or turned by more than ``away_degrees``.
    Each later frame is paired at most once. Candidates are the frames before the last one that is away from it, at
    least ``min_gap`` frames back, within ``metres`` and ``degrees`` and with the same intrinsics. It is paired with the
    nearest in pose (by the larger of the two distances relative to their tolerances), the latest of equally near ones.

    Raises `InputError` where cameras are not ``[F]``, not finite or not rigid, for tolerances that are not positive or
    exceed the away distances, and for a ``min_gap`` below 1.
    """
    c2w = cameras.c2w.double()
    if c2w.ndim != 3 or not bool(c2w.isfinite().all() and cameras.intrinsics.isfinite().all()):
        raise InputError(f"The cameras are {tuple(c2w.shape)}; give one path of finite poses [F, 4, 4].")
    check_rigid(c2w, "The cameras")
    sizes = {"metres": metres, "degrees": degrees, "away_metres": away_metres, "away_degrees": away_degrees}
    for name, value in sizes.items():
        check_number(name, value)
    check_whole("min_gap", min_gap, 1)
    if not (0 < metres <= away_metres and 0 < degrees <= away_degrees):
        raise InputError(
            f"Pairs within {metres} m and {degrees}°, away from {away_metres} m or {away_degrees}°: give "
            "positive tolerances, none above its away distance."
        )
    if not len(c2w):
        return []
    apart = _distances(c2w[:, :3, 3])
    # |Rᵢ − Rⱼ| = 2√2 sin(θ/2); unlike the arc cosine of the trace, exact for the small angles that matter here
    turned = torch.rad2deg(2 * (_distances(c2w[:, :3, :3].flatten(1)) / math.sqrt(8)).clamp(max=1).asin())
    zoomed = _distances(cameras.intrinsics.double()) > SAME_INTRINSICS
    frame = torch.arange(len(c2w), device=c2w.device)
    earlier, later = frame[:, None], frame[None]
    away = ((apart > away_metres) | (turned > away_degrees)) & (earlier < later)
    left = torch.where(away, earlier, -1).amax(0)  # the last frame away from each
    cost = torch.maximum(apart / metres, turned / degrees)
    fits = (cost <= 1) & ~zoomed & (earlier < left) & (later - earlier >= min_gap)
    cost = cost.masked_fill(~fits, math.inf)
    nearest = torch.where(fits & (cost <= cost.amin(0) + TIE), earlier, -1).amax(0)
    return [(i, j) for j, i in enumerate(nearest.tolist()) if i >= 0]


def _distances(rows: Float[Tensor, "frames dims"]) -> Float[Tensor, "frames frames"]:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")  # exactly 0 for equal rows
