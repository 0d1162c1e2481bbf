"""Where bodies can be seen and where their shadows can fall: rectangles, so that most rays need not be tried.

A body lies within the hull of the eight corners of its box, and so does its image within that of theirs.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

_NEAR = 1e-9
_MARGIN = 1e-6  # far above rounding, far below a pixel
_SIGNS = tuple(itertools.product((-1.0, 1.0), repeat=3))


def box_corners(centre: Tensor, half: Tensor, turn: Tensor | None) -> Tensor:
    """Corners [..., 8, 3] of boxes with centre and half extents [..., 3], turned by [..., 3, 3]."""
    offset = half[..., None, :] * half.new_tensor(_SIGNS)
    return centre[..., None, :] + (offset if turn is None else offset @ turn.transpose(-1, -2))


def on_screen(corners: Tensor, views: Tensor, lenses: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest (u, v) [bodies, frames, 2], shares of the image; inf and -inf of what lies behind.

    ``corners`` are [bodies, frames, 8, 3]. What lies partly behind the camera is cut where the camera's plane is.
    """
    seen = (corners - views[:, None, :3, 3]) @ views[:, :3, :3]
    a, b = seen[..., :, None, :], seen[..., None, :, :]
    before = a[..., 2] > _NEAR
    share = torch.where(before, 0.0, (_NEAR - a[..., 2]) / (b[..., 2] - a[..., 2]))
    cut = a + (b - a) * share[..., None]  # from corner a towards b, up to the camera's plane
    spot = cut[..., :2] / cut[..., 2:] * lenses[:, None, None, :2] + lenses[:, None, None, 2:]
    there = (before | (b[..., 2] > _NEAR))[..., None]
    low = torch.where(there, spot, torch.inf).amin((2, 3)) - _MARGIN
    return low, torch.where(there, spot, -torch.inf).amax((2, 3)) + _MARGIN


def shadows(corners: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest (x, y, z) [bodies, 3] that `along` finds for points in shadow, over all frames."""
    spot = torch.stack(along(corners.unbind(-1), light), dim=-1)
    low, high = spot.amin((1, 2)) - _MARGIN, spot.amax((1, 2)) + _MARGIN
    low[:, 2] = -torch.inf
    return low, high


def along(point: tuple[Tensor, ...], light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the light through points meets z = 0 (x and y), and their height."""
    x, y, z = point
    return x - z * (light[0] / light[2]), y - z * (light[1] / light[2]), z
