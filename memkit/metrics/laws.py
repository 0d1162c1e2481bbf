"""Measures on the laws world: where the body of a clip is, by which gravity it falls, how far it strays from the law.

The estimator is part of any claim made with it, so it is measured on rendered truth first (160 clips of all planets,
at 64×64): gravity 0.11 m/s² mean absolute error (0.06 median, 0.9 worst; the planets span 2 to 16), position 2 cm.
It does worst on white bodies in the lab, which are nearly as grey as what lies behind them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from memkit.worlds.laws import FPS, SIZES, Law, bounce_height, camera

MOVING = 0.12  # least distance in colour, of [0, 1] a channel, of a body from what lies behind it
SHADOW = (0.42, 0.80)  # brightness of a shadow against the lit floor: 0.5, blurred and at its edge
SHADOW_MARGIN = 0.06  # in colour, from that line
LEAST_AREA = 0.3  # of a body found, against that of a disc of its size
FOUND_FRAMES = 2 / 3  # least share of frames with a body
RESIDUAL = 0.3  # metres on average: farther from every law, a motion has no gravity
CUBE_DEPTH = 0.6  # half edges before its centre lies the middle of a cube's silhouette: mostly front face, some top


class Track(NamedTuple):
    """Centre of the body (x, z) in metres at each frame, NaN where ``found`` is False."""

    centre: Float[Tensor, "frames 2"]
    found: Bool[Tensor, " frames"]


class Fit(NamedTuple):
    """The fall and bounces nearest to a motion: m/s², ratio of speeds, metres, and the mean distance in metres."""

    gravity: float
    restitution: float
    height: float
    residual: float


@dataclass(frozen=True)
class LawMeasure:
    """How one clip obeys a law. All numbers are NaN where ``found`` is False: no body, or it moves by no law at all."""

    found: bool
    gravity: float
    """Fitted, in m/s²."""
    restitution: float
    trajectory_error: float
    """Mean distance in metres from the path of the law's own clip, whose start no prompt tells."""
    law_error: float
    """Mean vertical distance in metres from the path of a body under the law, dropped from where this one started."""


def measure_law(video: UInt8[Tensor, "frames height width 3"], law: Law, fps: float | int = FPS) -> LawMeasure:
    """Measure a clip, rendered or generated from ``law.caption``, against the law. It may be of any size and length."""
    half = SIZES[law.size]
    track = track_body(video, half, law.shape)
    fit = fit_law(track.centre[:, 1], half, fps)
    if fit is None or fit.residual > RESIDUAL:
        return LawMeasure(False, math.nan, math.nan, math.nan, math.nan)
    seconds = torch.arange(len(video)) / fps
    off = (track.centre - law.state(seconds)[:, [0, 2]]).norm(dim=-1)
    expected = bounce_height(seconds, fit.height, law.gravity, law.restitution) + half
    stray = (track.centre[:, 1] - expected).abs()
    return LawMeasure(True, fit.gravity, fit.restitution, off.nanmean().item(), stray.nanmean().item())


def track_body(video: UInt8[Tensor, "frames height width 3"], half: float, shape: str = "ball") -> Track:
    """Follow the one body of a clip, of radius or half edge ``half`` in metres; ``shape`` is "ball" or "cube".

    Floor and sky are the same along each row, so the median of a row over all frames is what lies behind the body (a
    median over time alone would take a body at rest for background). What differs from it and is no shadow is averaged
    inside the window, as large as the body, that holds most of it; the ray through its middle is cut with a plane.
    """
    rgb = video.float() / 255
    frames, height, width, _ = rgb.shape
    behind = rgb.transpose(1, 2).flatten(0, 1).median(dim=0).values[:, None]
    differs = (rgb - behind).norm(dim=-1) > MOVING
    mask = (differs & ~_shadow(rgb, behind)).float()
    radius = half * _pixels_a_metre(width)
    reach = max(1, round(1.2 * radius))
    weight = torch.nn.functional.avg_pool2d(mask[:, None], 2 * reach + 1, 1, reach)[:, 0].flatten(1)
    row, column = weight.argmax(1) // width, weight.argmax(1) % width
    v, u = torch.arange(height), torch.arange(width)
    near_v = (v - row[:, None]).abs() <= reach + 1
    near_u = (u - column[:, None]).abs() <= reach + 1
    total = mask.sum((1, 2))
    mask = mask * near_v[:, :, None] * near_u[:, None, :]
    area = mask.sum((1, 2))
    most = area > 0.5 * total  # not one body among several, or noise
    share = area / (math.pi * radius**2)
    found = (share > LEAST_AREA) & most
    down = (mask.sum(2) * (v + 0.5)).sum(1) / area / height
    right = (mask.sum(1) * (u + 0.5)).sum(1) / area / width
    centre = _at_depth(right, down, -CUBE_DEPTH * half if shape == "cube" else 0.0)
    return Track(centre.masked_fill(~found[:, None], torch.nan), found)


def fit_law(z: Float[Tensor, " frames"], half: float, fps: float | int = FPS) -> Fit | None:
    """Fit gravity, restitution and starting height to the heights of a body's centre; NaN frames are left out.

    The least mean absolute distance over a grid, then over a finer one around its best: a few bad frames move nothing.
    Gravity is sought from 0.5 to 25 m/s²: a body that floats gets the least. None where less than two thirds of the
    frames have a body.
    """
    known = ~z.isnan()
    if known.float().mean() < FOUND_FRAMES:
        return None
    seconds = torch.arange(len(z))[known] / fps
    low = z[known] - half  # height of the lowest point
    heights = (low.max() + torch.linspace(-0.2, 0.2, 9)).clamp(min=0.05)
    gravities = torch.logspace(math.log10(0.5), math.log10(25), 80)
    rough = _nearest(seconds, low, gravities, torch.linspace(0, 0.9, 10), heights)
    return _nearest(
        seconds,
        low,
        (rough.gravity * torch.linspace(0.92, 1.08, 33)).clamp(0.5, 25),
        (rough.restitution + torch.linspace(-0.08, 0.08, 9)).clamp(0, 0.95),
        (rough.height + torch.linspace(-0.05, 0.05, 9)).clamp(min=0.05),
    )


def _nearest(seconds: Tensor, low: Tensor, gravities: Tensor, restitutions: Tensor, heights: Tensor) -> Fit:
    g, h = (x.flatten() for x in torch.meshgrid(gravities, heights, indexing="ij"))
    tau = seconds * (g / (2 * h)).sqrt()[:, None]  # in units of the first fall, every path is h·f(τ, e)
    best = Fit(math.nan, math.nan, math.nan, math.inf)
    for e in restitutions.tolist():
        path = h[:, None] * bounce_height(tau.flatten(), 1.0, 2.0, e).view_as(tau)
        residual, i = (path - low).abs().mean(1).min(0)
        if residual < best.residual:
            best = Fit(g[i].item(), e, h[i].item(), residual.item())
    return best


def _shadow(rgb: Tensor, behind: Tensor) -> Tensor:
    """Pixels that are what lies behind them, only darker."""
    share = (rgb * behind).sum(-1) / (behind * behind).sum(-1).clamp(min=1e-6)
    off = (rgb - share.clamp(*SHADOW)[..., None] * behind).norm(dim=-1)
    return off < SHADOW_MARGIN


def _pixels_a_metre(width: int) -> float:
    """At the distance of the bodies."""
    view = camera()
    return float(view.intrinsics[0, 0]) * width / abs(float(view.c2w[0, 1, 3]))


def _at_depth(u: Tensor, v: Tensor, y: float) -> Tensor:
    """Where the rays through (u, v), in shares of the image, meet the plane at ``y``: (x, z) in metres."""
    view = camera()
    fx, fy, cx, cy = view.intrinsics[0]
    ray = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], dim=-1) @ view.c2w[0, :3, :3].T
    eye = view.c2w[0, :3, 3]
    return (eye + ray * ((y - eye[1]) / ray[:, 1:2]))[:, [0, 2]]
