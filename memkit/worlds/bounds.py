"""Bounding rectangles of bodies in the image and of their shadows, so that most rays need not be tested.

A body lies within the convex hull of its box's eight corners, and its image within that of their images.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

_NEAR = 1e-9
_MARGIN = 1e-6  # far above rounding errors, far below a pixel
_SIGNS = tuple(itertools.product((-1.0, 1.0), repeat=3))


def box_corners(centre: Tensor, half: Tensor, rotation: Tensor | None) -> Tensor:
    """Corners [..., 8, 3] of boxes with centre and half extents [..., 3], rotated by [..., 3, 3]."""
    offset = half[..., None, :] * half.new_tensor(_SIGNS)
    return centre[..., None, :] + (offset if rotation is None else offset @ rotation.transpose(-1, -2))


def on_screen(corners: Tensor, views: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum (u, v) [bodies, frames, 2], as shares of the image; inf and -inf behind the camera.

    ``corners`` are [bodies, frames, 8, 3]. Bodies partly behind the camera are clipped at the camera's plane.
    """
    seen = (corners - views[:, None, :3, 3]) @ views[:, :3, :3]
    a, b = seen[..., :, None, :], seen[..., None, :, :]
    before = a[..., 2] > _NEAR
    share = torch.where(before, 0.0, (_NEAR - a[..., 2]) / (b[..., 2] - a[..., 2]))
    cut = a + (b - a) * share[..., None]  # from corner a towards b, up to the camera's plane
    spot = cut[..., :2] / cut[..., 2:] * intrinsics[:, None, None, :2] + intrinsics[:, None, None, 2:]
    there = (before | (b[..., 2] > _NEAR))[..., None]
    low = torch.where(there, spot, torch.inf).amin((2, 3)) - _MARGIN
    return low, torch.where(there, spot, -torch.inf).amax((2, 3)) + _MARGIN


def shadows(corners: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum (x, y, z) [bodies, 3] of `along` for points in shadow, over all frames."""
    spot = torch.stack(along(corners.unbind(-1), light), dim=-1)
    low, high = spot.amin((1, 2)) - _MARGIN, spot.amax((1, 2)) + _MARGIN
    low[:, 2] = -torch.inf
    return low, high


def along(point: tuple[Tensor, ...], light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where light through points meets z = 0 (x and y), and the points' height."""
    x, y, z = point
    return x - z * (light[0] / light[2]), y - z * (light[1] / light[2]), z
