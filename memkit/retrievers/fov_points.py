"""Overlap of two views in space: the points in the query's view that a frame sees too (WorldMem's rule)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import SEEDS, check_fields
from memkit.errors import InputError
from memkit.retrievers.fov_rules import TOUCH, check_range, disc_depth

MOST_POINTS = 10_000_000
"""The largest number of points, whose error is far below what views tell."""
_TESTS_AT_ONCE = 2**17  # points times frames, such that intermediates fit a core's cache


@dataclass(frozen=True)
class Points:
    """The share of the points seen by the query that a frame sees too: |query ∩ frame| / |query| (WorldMem).

    ``count`` points are drawn uniformly in the ball of radius ``far`` around the query's camera, in its own axes and
    from ``seed``; a view sees those within its image, at a depth of at least ``near`` and a distance of at most
    ``far``, in metres. Poses are full 3-D poses. The standard error of an overlap is at most ½ / √|query|: 0.02 for 570
    points, which is how many of 10 000 (the paper's number) fall in a field of view of 50°. The paper tests angles
    only; that a frame sees no farther than ``far`` is our reading, which makes the rule symmetric (in expectation, for
    equal intrinsics) and lets distant frames be skipped.

    Where depth is known, a point farther along its ray than the depth at the pixel it falls on, plus ``margin`` metres,
    is hidden from that view; the paper has no such test.
    """

    count: int = 10_000
    near: float = 0.0
    far: float = 10.0
    margin: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, count=(0, MOST_POINTS), seed=SEEDS)
        check_range(self.near, self.far)
        if self.count < 1:
            raise InputError(f"There are {self.count} points; give at least 1 point.")

    def views(self, cameras: Cameras, depth: Float[Tensor, "n height width"] | None = None) -> PointViews:
        """Cameras ``[N]``, prepared for comparison, with their depth if known."""
        return PointViews(self, cameras, depth)


class PointViews:
    """`Points` of many cameras. ``centres`` [N, 3] and ``radii`` [N] are balls that contain the views."""

    def __init__(self, rule: Points, cameras: Cameras, depth: Float[Tensor, "n height width"] | None) -> None:
        self.rule, self.depth = rule, depth
        c2w, (fx, fy, cx, cy) = cameras.c2w.double(), cameras.intrinsics.double().unbind(-1)
        self.position, self.rotation = c2w[:, :3, 3], c2w[:, :3, :3]
        x, y, z = self.rotation.unbind(-1)
        across, down = fx[:, None] * x + cx[:, None] * z, fy[:, None] * y + cy[:, None] * z
        # depth times the distances from the left, right, top and bottom border, as shares of the image
        self.sides = torch.stack([across, z - across, down, z - down], dim=1)
        wide, high = torch.maximum(cx, 1 - cx) / fx, torch.maximum(cy, 1 - cy) / fy
        cosine = (1 + wide**2 + high**2).rsqrt()
        rim = torch.full_like(cosine, rule.far)
        ahead = disc_depth(rim, cosine)
        self.centres = self.position + ahead[:, None] * z
        self.radii = (rim**2 + ahead**2 - 2 * rim * ahead * cosine).sqrt()
        self._points: Tensor | None = None

    def overlap(self, query: PointViews, rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The share of the one query's points that each of ``rows`` sees."""
        points = query.points()
        shares = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        step = max(1, _TESTS_AT_ONCE // len(points))
        for part, out in zip(rows.split(step), shares.split(step), strict=True):
            out.copy_(self._sees(query, points, part).double().mean(1))
        return shares

    def seen(self, query: PointViews, rows: Int[Tensor, " n"]) -> Bool[Tensor, "n points"]:
        """Which of the one query's points ``rows`` see."""
        points = query.points()
        seen = torch.empty(len(rows), len(points), dtype=torch.bool, device=rows.device)
        step = max(1, _TESTS_AT_ONCE // len(points))
        for part, out in zip(rows.split(step), seen.split(step), strict=True):
            out.copy_(self._sees(query, points, part))
        return seen

    def points(self) -> Float[Tensor, "points 3"]:
        """The points of its ball that the one view sees, relative to its camera, in the world's axes.

        Raises `InputError` if it sees none.
        """
        if self._points is None:
            generator = torch.Generator().manual_seed(self.rule.seed)
            ball = torch.randn(self.rule.count, 3, generator=generator, dtype=torch.float64)
            radius = torch.rand(self.rule.count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
            ball = self.rule.far * radius * torch.nn.functional.normalize(ball, dim=-1)
            ball = ball.to(self.rotation) @ self.rotation[0].T
            self._points = ball[self._sees(self, ball, torch.zeros(1, dtype=torch.int64, device=ball.device))[0]]
            if not len(self._points):
                raise InputError(
                    f"The query sees none of {self.rule.count} points between {self.rule.near} and {self.rule.far} m; "
                    "raise the rule's count or far, or check the query's intrinsics and depth."
                )
        return self._points

    def _sees(self, query: PointViews, points: Tensor, rows: Tensor) -> Tensor:
        rule, slack = self.rule, TOUCH * self.rule.far
        to, sides = self.position[rows] - query.position, self.sides[rows]
        inside = (sides.flatten(0, 1) @ points.T).view(len(rows), 4, len(points)) - (sides @ to[..., None])
        away = points.square().sum(1) - 2 * (to @ points.T) + to.square().sum(1, keepdim=True)  # squared
        seen = inside.amin(1) >= -slack
        seen &= away <= (rule.far + slack) ** 2
        depth = inside[:, 0] + inside[:, 1]
        seen &= depth >= rule.near - slack
        if self.depth is None:
            return seen
        frame, point = seen.nonzero(as_tuple=True)
        height, width = self.depth.shape[1:]
        share = inside[frame, :, point] / depth[frame, point].clamp(min=slack)[:, None]
        column = (share[:, 0] * width).long().clamp(0, width - 1)
        row = (share[:, 2] * height).long().clamp(0, height - 1)
        surface = self.depth[rows[frame], row, column].double()
        seen[frame, point] = away[frame, point].clamp(min=0).sqrt() <= surface + rule.margin
        return seen
