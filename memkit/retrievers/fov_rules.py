"""Overlap of two views on the ground: the shared area of their sectors, or whether edge rays meet (CaM's rule)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import MOST, check_fields
from memkit.errors import InputError

TOUCH = (
    1.2345e-10  # share of `far` below which edges coincide; an odd number, so that no round one lies on the boundary
)
_TINY = 1e-200  # makes 0 / 0 equal 0
_AT_ONCE = 8192  # number of frames whose intermediates fit a core's cache
_FLATTEST = 1e-6  # sine of the angle between view and `up` below which a view has no heading


@dataclass(frozen=True)
class Sector:
    """The share of the area of the query's sector that a frame's sector covers, exact.

    A view's sector is what its image columns see on the ground plane, between the depths ``near`` and ``far`` in metres
    along its heading: a triangle, or a trapezoid if ``near`` > 0. The heading is the forward axis projected along
    ``up``, the world's upward direction; pitch, roll and height have no effect. That the overlap is graded, by area and
    depth, is our reading: CaM (arXiv 2506.03141) draws sectors but uses a binary test, see `Rays`. With equal
    intrinsics the overlap is symmetric.
    """

    near: float = 0.0
    far: float = 10.0
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self, up=(-MOST, MOST))
        check_range(self.near, self.far)

    def views(self, cameras: Cameras) -> SectorViews:
        """Cameras ``[N]``, prepared for comparison. Raises `InputError` for one that looks straight up or down."""
        return SectorViews(self, cameras)


@dataclass(frozen=True)
class Rays:
    """CaM's rule: 1 if both the left rays and the right rays of two views meet on the ground, else 0 (section 3.3).

    They meet at ``near`` to ``far`` metres from both cameras ("neither too near nor too far"; the paper gives no
    thresholds). Which ray meets which, and that coinciding rays meet, is our reading. Views from the same position that
    differ in yaw meet at the position itself, which is too near: the rule does not notice turning on the spot, `Sector`
    does.
    """

    near: float = 0.1
    far: float = 10.0
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self, up=(-MOST, MOST))
        check_range(self.near, self.far)
        if self.near == 0:
            raise InputError(
                "near is 0, so any two views from the same position would overlap; give a distance above 0."
            )

    def views(self, cameras: Cameras) -> RayViews:
        """Cameras ``[N]``, prepared for comparison. Raises `InputError` for one that looks straight up or down."""
        return RayViews(self, cameras)


class _GroundViews:
    """Views on the ground plane: ``apex``, unit ``ahead``, and edge vectors ``left``, ``right`` of depth 1; [2, N]."""

    def __init__(self, cameras: Cameras, up: tuple[float, float, float]) -> None:
        c2w, (fx, _, cx, _) = cameras.c2w.double(), cameras.intrinsics.double().unbind(-1)
        basis = _ground(up).to(c2w)
        self.apex = basis @ c2w[:, :3, 3].T
        heading = basis @ c2w[:, :3, 2].T
        length = heading.norm(dim=0)
        if bool((length < _FLATTEST).any()):
            raise InputError(
                f"View {int(length.argmin())} looks straight up or down and has no heading on the ground; "
                'use rule="points", or give the rule the world\'s upward direction as `up`.'
            )
        self.ahead = heading / length
        side = torch.stack([self.ahead[1], -self.ahead[0]])
        self.left = self.ahead - cx / fx * side
        self.right = self.ahead + (1 - cx) / fx * side

    def _seen_from(self, query: _GroundViews, rows: Int[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Apex, left and right of rows, each [2, n], in the axes (right, ahead) of the one query."""
        x, y = query.ahead
        apex, left, right = (v.index_select(1, rows) for v in (self.apex, self.left, self.right))
        apex -= query.apex
        apex, left, right = (torch.stack([y * v[0] - x * v[1], x * v[0] + y * v[1]]) for v in (apex, left, right))
        return apex, left, right


class SectorViews(_GroundViews):
    """`Sector` of many cameras. ``centres`` [N, 2] and ``radii`` [N] are discs that contain the sectors."""

    def __init__(self, rule: Sector, cameras: Cameras) -> None:
        super().__init__(cameras, rule.up)
        self.rule = rule
        corner = rule.far * torch.maximum(self.left.norm(dim=0), self.right.norm(dim=0))
        depth = disc_depth(corner, rule.far / corner)
        self.centres = (self.apex + self.ahead * depth).T.contiguous()
        reach = [(rule.far * edge - self.ahead * depth).norm(dim=0) for edge in (self.left, self.right)]
        self.radii = torch.stack([depth, *reach]).amax(0)

    def overlap(self, query: SectorViews, rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The share of the one query's sector that each of ``rows`` covers."""
        parts = [self._share(query, part) for part in rows.split(_AT_ONCE)]
        return torch.cat(parts) if parts else query.apex.new_empty(0)

    def _share(self, query: SectorViews, rows: Tensor) -> Tensor:
        # Green's theorem: the border of the shared area consists of the parts of each border within the other sector.
        # Where borders coincide, only the frame's counts. The query's sides go through the origin and contribute
        # nothing, so only its far and near ends are summed.
        frame = self._corners(*self._seen_from(query, rows))
        own = self._corners(*query._seen_from(query, rows.new_zeros(1)))
        touch, ends = TOUCH * self.rule.far, slice(own.shape[1] % 2, None, 2)
        start, end = own[:, ends], _next(own)[:, ends]
        out = _outside(frame, own, touch)
        area = (_within(out, out.roll(-1, 1)) * _cross(frame, _next(frame))).sum(0)
        kept = _within(_outside(start, frame, -touch), _outside(end, frame, -touch))
        area += (kept * _cross(start, end)).sum(0)
        share = area / _cross(own, _next(own)).sum(0)
        return share.masked_fill_(share < 10 * TOUCH, 0.0).clamp_(max=1.0)

    def _corners(self, apex: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Corners [2, 3 or 4, n], counter-clockwise; near ones first, which are one where ``near`` is 0."""
        near, far = self.rule.near, self.rule.far
        start = [apex + near * left, apex + near * right] if near else [apex]
        return torch.stack([*start, apex + far * right, apex + far * left], dim=1)

    def seen(self, query: SectorViews, rows: Int[Tensor, " n"], count: int = 1024) -> Bool[Tensor, "n {count}"]:
        """Which of ``count`` points, spread evenly over the one query's sector, lie in the sectors of ``rows``."""
        near, far, slack = self.rule.near, self.rule.far, TOUCH * self.rule.far
        even = (torch.arange(count, dtype=torch.float64, device=rows.device) + 0.5) / count
        depth = (near**2 + (far**2 - near**2) * even).sqrt()
        across = (even * count * 0.6180339887498949) % 1  # multiples of the golden ratio spread evenly
        points = depth * (query.left + across * (query.right - query.left))
        seen = torch.empty(len(rows), count, dtype=torch.bool, device=rows.device)
        for part, out in zip(rows.split(_AT_ONCE // 64), seen.split(_AT_ONCE // 64), strict=True):
            to = points[:, None] - (self.apex[:, part] - query.apex)[..., None]
            deep = (to * self.ahead[:, part, None]).sum(0)
            out.copy_((deep >= near - slack) & (deep <= far + slack))
            out &= _cross(self.left[:, part, None], to) <= slack
            out &= _cross(self.right[:, part, None], to) >= -slack
        return seen


class RayViews(_GroundViews):
    """`Rays` of many cameras. ``centres`` [N, 2] and ``radii`` [N] are discs outside which no rays can meet."""

    def __init__(self, rule: Rays, cameras: Cameras) -> None:
        super().__init__(cameras, rule.up)
        self.rule = rule
        self.centres = self.apex.T.contiguous()
        self.radii = torch.full_like(self.apex[0], rule.far)

    def overlap(self, query: RayViews, rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """1 where both rays of ``rows`` meet the one query's, else 0."""
        apex, *rays = self._seen_from(query, rows)
        _, *own = query._seen_from(query, rows.new_zeros(1))
        left, right = (
            self._meet(apex, ray / ray.norm(dim=0), q / q.norm(dim=0)) for ray, q in zip(rays, own, strict=True)
        )
        return (left & right).double()

    def _meet(self, apex: Tensor, ray: Tensor, own: Tensor) -> Tensor:
        """Whether unit rays [2, n] from ``apex`` meet the ray [2, 1] from the origin."""
        near, far, touch = self.rule.near * (1 - TOUCH), self.rule.far * (1 + TOUCH), TOUCH * self.rule.far
        sine, aside = _cross(own, ray), _cross(own, apex)
        along, back = _cross(apex, ray) / sine, -aside / sine  # metres from the query, and from the frame
        crossing = (along >= near) & (along <= far) & (back >= near) & (back <= far)
        same = (aside.abs() <= touch) & ((ray * own).sum(0) > 0) & (apex.norm(dim=0) <= far)
        return torch.where(sine.abs() <= TOUCH, same, crossing)


def check_range(near: float, far: float) -> None:
    """Raises `InputError` unless 0 ≤ near < far."""
    if not 0 <= near < far:
        raise InputError(f"near is {near} and far is {far}; give metres, 0 ≤ near < far.")


def disc_depth(corner: Float[Tensor, " n"], cosine: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """How far ahead of a cone's apex the centre of the smallest disc around apex and rim lies.

    ``corner`` is the distance of the rim from the apex, ``cosine`` that of the angle between axis and rim.
    """
    return corner * torch.where(2 * cosine**2 > 1, 0.5 / cosine, cosine)


def _ground(up: tuple[float, float, float]) -> Float[Tensor, "2 3"]:
    """Two axes of the plane orthogonal to ``up``, right-handed as seen from above; x and y if up is z."""
    axis = torch.tensor(up, dtype=torch.float64)
    if not bool(axis.isfinite().all()) or not bool(axis.any()):
        raise InputError(f"up is {up}; give the world's upward direction, such as (0, 0, 1).")
    axis = axis / axis.norm()
    first = torch.eye(3, dtype=torch.float64)[int(axis.abs().argmin())]
    first = first - (first @ axis) * axis
    first = first / first.norm()
    return torch.stack([first, torch.linalg.cross(axis, first)])


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[1] - a[1] * b[0]


def _next(corners: Tensor) -> Tensor:
    return corners.roll(-1, 1)


def _outside(points: Tensor, polygon: Tensor, slack: float) -> Tensor:
    """Distance of points outside each side, times its length and less ``slack`` [sides, points, n].

    Points are [2, points, n or 1], the convex polygon's corners [2, sides, n or 1].
    """
    side = _next(polygon) - polygon
    limit = _cross(polygon, side) + slack * side.square().sum(0).sqrt()
    return _cross(points[:, None], side[:, :, None]) - limit[:, None]


def _within(start: Tensor, end: Tensor) -> Tensor:
    """The share of each edge within a convex polygon [edges, n], from `_outside` of its ends."""
    before = start.clamp(min=0)
    after = end.clamp(min=0)
    before = before / (before - end.clamp(max=0) + _TINY)
    after = after / (after - start.clamp(max=0) + _TINY)
    return (1 - before.amax(0) - after.amax(0)).clamp_(min=0)
