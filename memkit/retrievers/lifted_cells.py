"""Latent cells as points in space: lifted by depth and camera, and drawn for another camera (Mirage, 2606.09828)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from memkit.cameras.cameras import Cameras
from memkit.checks import check_fields
from memkit.display import with_shapes


@dataclass(frozen=True)
class LiftRule:
    """Where a cell lies in space, and which frames overlap. Lengths are in metres."""

    offset: float = 0.5
    """Where the ray of a cell goes through it, in cells from its upper left corner: through its centre. The release
    counts cells from whole pixels of the rescaled intrinsics, which is 0."""
    voxel: float = 0.1
    """Edge of the cubes by which the overlap of frames is counted."""
    least: float = 0.04
    """Intersection over union of their cubes below which a frame does not overlap a query."""

    def __post_init__(self) -> None:
        check_fields(self, offset=(0, 1), voxel=(1e-6, 1e6), least=(0, 1))


class LatentMap(NamedTuple):
    """What cameras see of latent cells in space."""

    latents: Float[Tensor, "channels frames height width"]  # 0 where there is none
    mask: Bool[Tensor, "frames height width"]  # where a cell is seen

    __repr__ = with_shapes

    def stacked(self) -> Float[Tensor, "channels_and_one frames height width"]:
        """The latents, and the mask as one more channel.

        The release has other channels in its place: the VAE's latents of a video that is 1 everywhere.
        """
        return torch.cat([self.latents, self.mask[None].to(self.latents)])


class LiftedCells(NamedTuple):
    """Cells of all frames so far; none is merged or replaced."""

    points: Float[Tensor, "cells 3"]  # in float64
    values: Float[Tensor, "cells channels"]
    frames: Int[Tensor, " cells"]  # that each is from

    __repr__ = with_shapes

    @staticmethod
    def joined(parts: Sequence[LiftedCells]) -> LiftedCells:
        """Those of several, one after the other."""
        return LiftedCells(*map(torch.cat, zip(*parts, strict=True)))


def lifted(
    rule: LiftRule,
    camera: Cameras,
    values: Float[Tensor, "channels rows columns"],
    depth: Float[Tensor, "height width"],
    frame: int,
) -> LiftedCells:
    """The cells of one frame, with depth, turned into that along the axis, bilinearly between pixels; none next to a
    pixel of depth 0 or inf, which shows no surface (our reading)."""
    rows, columns = values.shape[1:]
    x, y = _way(camera, *depth.shape, 0.5)
    depth = depth.to(x)
    known = (depth > 0) & depth.isfinite()
    along = torch.where(known, depth / (x**2 + y**2 + 1).sqrt(), 0)
    size, stacked = (rows, columns), torch.stack([along, known.to(along)])[None]
    (z, share), (x, y) = interpolate(stacked, size, mode="bilinear")[0], _way(camera, rows, columns, rule.offset)
    points = torch.stack([x * z, y * z, z], dim=-1) @ camera.c2w[:3, :3].mT.to(z) + camera.c2w[:3, 3].to(z)
    kept = share > 1 - 1e-6
    return LiftedCells(points[kept], values.movedim(0, -1)[kept], torch.full((int(kept.sum()),), frame).to(z.device))


def drawn(
    rule: LiftRule, cells: Float[Tensor, "cells 3"], camera: Cameras, rows: int, columns: int
) -> Int[Tensor, "{rows} {columns}"]:
    """The number of the point that each cell of a new frame shows, −1 for none: the one of the smallest depth, the
    older of equal ones, of those whose projection is nearest to where the cell's own ray goes through it."""
    c2w, (fx, fy, cx, cy) = camera.c2w.to(cells), camera.intrinsics.to(cells)
    x, y, z = ((cells - c2w[:3, 3]) @ c2w[:3, :3]).unbind(-1)
    column, row = columns * (fx * x / z + cx) - rule.offset, rows * (fy * y / z + cy) - rule.offset
    column, row = (column + 0.5).floor(), (row + 0.5).floor()
    inside = (z > 0) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    which = inside.nonzero()[:, 0]
    which = which[z[which].argsort(stable=True)]
    place, order = (row[which] * columns + column[which]).long().sort(stable=True)
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[1:] != place[:-1]
    picture = torch.full((rows * columns,), -1, device=cells.device)
    picture[place[first]] = which[order[first]]
    return picture.view(rows, columns)


def overlap(rule: LiftRule, cells: LiftedCells, seen: Int[Tensor, " n"], frames: int) -> Float[Tensor, " {frames}"]:
    """Intersection over union of the cubes with cells of each frame, and of those with the cells ``seen``."""
    cubes = torch.unique((cells.points / rule.voxel).floor(), dim=0, return_inverse=True)[1]
    seen, own = torch.unique(cubes[seen]), torch.unique(torch.stack([cells.frames, cubes], 1), dim=0)
    both = own[torch.isin(own[:, 1], seen), 0].bincount(minlength=frames).double()
    return both / (own[:, 0].bincount(minlength=frames) + len(seen) - both).clamp(min=1)


def _way(camera: Cameras, rows: int, columns: int, offset: float) -> tuple[Tensor, Tensor]:
    """x and y of rays (x, y, 1) in the camera's axes, [rows, columns] each."""
    fx, fy, cx, cy = camera.intrinsics.double()
    down, across = (torch.arange(n, device=fx.device, dtype=fx.dtype) + offset for n in (rows, columns))
    y, x = torch.meshgrid((down / rows - cy) / fy, (across / columns - cx) / fx, indexing="ij")
    return x, y
