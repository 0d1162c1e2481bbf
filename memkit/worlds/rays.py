"""Intersections of rays and bodies. Vectors of many rays are [3, rays], with the rays of all frames in one dimension.

The index of a body in a frame is the ``row`` body * frames + frame. Only pairs of a ray and a body that may intersect
are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memkit.worlds.bounds import along, box_corners, shadows
from memkit.worlds.scene import Body, Scene

FAR = 1e9
_NEAR = 1e-9
_ORDER = ("plane", "sphere", "box", "cylinder")
PLANE, _SPHERE, _BOX, _CYLINDER = range(4)
Vector = Sequence[Tensor]  # x, y, z, each [pairs]


class Surface(NamedTuple):
    """Per hit: normal [3, rays], colour [rays, 3], face 0–2, and whether it lies in a dark square of the pattern."""

    normal: Tensor
    colour: Tensor
    face: Tensor
    dark: Tensor


class Group(NamedTuple):
    """Consecutive bodies of one shape; ``rotated`` if any has a rotation."""

    kind: int
    rotated: bool
    bodies: slice


@dataclass(frozen=True)
class Pack:
    """The bodies of some frames as tensors, sorted by shape; ``ids`` are their indices in the scene."""

    frames: int
    groups: tuple[Group, ...]
    ids: Tensor
    kind: Tensor
    centre: Tensor  # [3, rows]
    half: Tensor
    colour: Tensor  # [rows, 3]
    rotation: Tensor | None  # [9, rows]
    checker: Tensor | None
    sky: Tensor
    gain: Tensor
    corners: Tensor  # [bodies, frames, 8, 3]

    def trace(self, origin: Tensor, direction: Tensor, frame: Tensor, possible: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest hit of each ray: its distance, FAR for none, and the index of the body in the pack.

        ``frame`` [rays] is the frame of each ray; ``possible`` [bodies, rays] says which bodies it may hit.
        """
        nearest, which = torch.full_like(origin[0], FAR), torch.zeros_like(frame)
        for group in self.groups:
            if group.kind == PLANE:
                for body in range(group.bodies.start, group.bodies.stop):
                    distance = self._distance(group, body * self.frames + frame, origin.unbind(), direction.unbind())
                    which = torch.where(distance < nearest, body, which)
                    nearest = torch.minimum(distance, nearest)
        met = [self._meet(group, origin, direction, frame, possible) for group in self.groups if group.kind != PLANE]
        if met:
            ray, body, distance = (torch.cat(part) for part in zip(*met, strict=True))
            nearest.scatter_reduce_(0, ray, distance, "amin")
            first = (distance == nearest.index_select(0, ray)).nonzero()[:, 0]
            ray, body = ray.index_select(0, first), body.index_select(0, first)
            which.scatter_reduce_(0, ray, body, "amin", include_self=False)
        return nearest, which

    def blocked(self, origin: Tensor, light: Tensor, frame: Tensor) -> Tensor:
        """Whether any body but a plane is between points [3, rays] and the light [3]."""
        low, high = shadows(self.corners, light)
        possible = torch.ones(len(self.kind), len(frame), dtype=torch.bool, device=frame.device)
        for i, spot in enumerate(along(origin.unbind(), light)):
            possible &= (spot > low[:, i, None]) & (spot < high[:, i, None])
        blocked = torch.zeros_like(frame, dtype=torch.bool)
        for group in self.groups:
            if group.kind != PLANE:
                blocked[self._meet(group, origin, light[:, None], frame, possible)[0]] = True
        return blocked

    def _meet(
        self, group: Group, origin: Tensor, direction: Tensor, frame: Tensor, possible: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs that intersect: ray, body, distance."""
        pair = possible[group.bodies].view(-1).nonzero()[:, 0]
        body = pair // len(frame)
        ray, body = pair - body * len(frame), body + group.bodies.start
        way = select(direction, ray) if direction.shape[1] > 1 else direction.unbind()
        distance = self._distance(group, body * self.frames + frame.index_select(0, ray), select(origin, ray), way)
        met = (distance < FAR).nonzero()[:, 0]
        return ray.index_select(0, met), body.index_select(0, met), distance.index_select(0, met)

    def _distance(self, group: Group, row: Tensor, origin: Vector, way: Vector) -> Tensor:
        """Distances of rays to rows, pair by pair; FAR if they do not intersect."""
        toward: Vector = [c - o for c, o in zip(select(self.centre, row), origin, strict=True)]
        if group.rotated and self.rotation is not None:
            rotation = select(self.rotation, row)
            toward, way = _back(rotation, toward), _back(rotation, way)
        return _MEET[group.kind](toward, way, select(self.half, row))

    def surface(self, point: Tensor, which: Tensor, frame: Tensor) -> Surface:
        """Normal, colour and pattern at points [3, rays] of bodies [rays]."""
        row = which * self.frames + frame
        local = [p - c for p, c in zip(point, select(self.centre, row), strict=True)]
        rotation = None if self.rotation is None else select(self.rotation, row)
        local = torch.stack(local if rotation is None else _back(rotation, local))
        kind = self.kind.index_select(0, which)
        scaled = local / torch.stack(select(self.half, row))
        box, plane, cylinder = kind == _BOX, kind == PLANE, kind == _CYLINDER
        cap = (cylinder & (scaled[2].abs() > 1 - 1e-9)) | plane
        sx, sy, sz = scaled.abs()
        widest = torch.where(sz >= torch.maximum(sx, sy), 2, (sy >= sx).long())
        face = torch.where(box, widest, torch.where(cap, 2, 0))
        across = torch.arange(3, device=face.device)[:, None] == face
        flat = scaled.sign().masked_fill_(~across, 0.0)
        flat[2].masked_fill_(plane, 1.0)
        dark = self._dark(local, across, which)
        local[2].masked_fill_(cylinder, 0.0)
        round_ = local / local.square().sum(0).clamp(min=1e-18).sqrt()
        normal = torch.where(box | cap, flat, round_)
        if rotation is not None:
            x, y, z = normal
            normal = torch.stack([rotation[i] * x + rotation[i + 1] * y + rotation[i + 2] * z for i in (0, 3, 6)])
        return Surface(normal, self.colour.index_select(0, row), face, dark)

    def _dark(self, local: Tensor, across: Tensor, which: Tensor) -> Tensor:
        if self.checker is None:
            return torch.zeros_like(which, dtype=torch.bool)
        cell = self.checker[which]
        offset = 1e-3 * 2**0.5  # so that no edge lies on a round number
        squares = (local / torch.where(cell > 0, cell, 1.0) + offset).floor().masked_fill_(across, 0.0)
        return (squares.sum(0) % 2 == 1) & (cell > 0)


def pack_scene(scene: Scene, block: slice, frames: int, device: torch.device) -> Pack:
    """The bodies of the frames in ``block``, of ``frames`` in all, on a device, in float64."""

    def sorted_by(i: int) -> tuple[int, bool]:
        return _ORDER.index(scene.bodies[i].shape), scene.bodies[i].rotation is not None

    order = sorted(range(len(scene.bodies)), key=sorted_by)
    sorts = [sorted_by(i) for i in order]
    bodies = [scene.bodies[i] for i in order]
    bounds = {sort: (sorts.index(sort), sorts.index(sort) + sorts.count(sort)) for sort in sorts}

    def stack(get: Callable[[Body], Tensor], *shape: int) -> Tensor:
        """[bodies, frames, *shape]."""
        rows = [get(b).to(device, torch.float64).expand(frames, *shape)[block] for b in bodies]
        return torch.stack(rows)

    eye = torch.eye(3, dtype=torch.float64)[None]
    gain = torch.ones(1) if scene.gain is None else scene.gain
    kind = torch.tensor([kind for kind, _ in sorts], device=device)
    checkers = [b.checker for b in bodies]
    centre, half = stack(lambda b: b.centre, 3), stack(lambda b: b.half, 3)
    rotation = (
        stack(lambda b: eye if b.rotation is None else b.rotation, 3, 3) if any(flag for _, flag in sorts) else None
    )
    reach = half.clone()  # spheres and cylinders do not use all half extents
    reach[kind != _BOX, :, 1] = half[kind != _BOX, :, 0]
    reach[kind == _SPHERE, :, 2] = half[kind == _SPHERE, :, 0]
    return Pack(
        frames=centre.shape[1],
        groups=tuple(Group(*sort, slice(*places)) for sort, places in bounds.items()),
        ids=torch.tensor(order, device=device),
        kind=kind,
        centre=centre.flatten(0, 1).T.contiguous(),
        half=half.flatten(0, 1).T.contiguous(),
        colour=stack(lambda b: b.colour, 3).flatten(0, 1),
        rotation=None if rotation is None else rotation.reshape(-1, 9).T.contiguous(),
        checker=torch.tensor(checkers, device=device, dtype=torch.float64) if any(checkers) else None,
        sky=torch.tensor(scene.sky, device=device, dtype=torch.float64),
        gain=gain.to(device, torch.float64).expand(frames)[block],
        corners=box_corners(centre, reach, rotation),
    )


def select(values: Tensor, index: Tensor) -> list[Tensor]:
    """Selected columns of [n, rows], as n tensors, which is many times faster than ``values[:, index]``."""
    return [row.index_select(0, index) for row in values]


def _back(rotation: Sequence[Tensor], vector: Vector) -> list[Tensor]:
    """The vector in a body's own axes."""
    x, y, z = vector
    return [rotation[i] * x + rotation[i + 3] * y + rotation[i + 6] * z for i in range(3)]


def _plane(toward: Vector, way: Vector, half: Vector) -> Tensor:
    ahead = way[2] < -_NEAR
    distance = toward[2] / torch.where(ahead, way[2], -1.0)
    return torch.where(ahead & (distance > _NEAR), distance, FAR)


def _sphere(toward: Vector, way: Vector, half: Vector) -> Tensor:
    b = _dot(toward, way)
    spare = b * b - (_dot(toward, toward) - half[0] ** 2)
    distance = b - spare.clamp(min=0).sqrt()
    return torch.where((spare > 0) & (distance > _NEAR), distance, FAR)


def _box(toward: Vector, way: Vector, half: Vector) -> Tensor:
    enters, leaves = zip(*(_slab(*axis) for axis in zip(toward, way, half, strict=True)), strict=True)
    enter = torch.maximum(torch.maximum(enters[0], enters[1]), enters[2])
    leave = torch.minimum(torch.minimum(leaves[0], leaves[1]), leaves[2])
    return torch.where((enter < leave) & (enter > _NEAR), enter, FAR)


def _cylinder(toward: Vector, way: Vector, half: Vector) -> Tensor:
    (ox, oy, oz), (dx, dy, dz) = toward, way
    a = (dx * dx + dy * dy).clamp(min=1e-12)
    b = ox * dx + oy * dy
    spare = b * b - a * (ox * ox + oy * oy - half[0] ** 2)
    root = spare.clamp(min=0).sqrt()
    low, high = _slab(oz, dz, half[2])
    enter = torch.maximum((b - root) / a, low)
    leave = torch.minimum((b + root) / a, high)
    return torch.where((spare > 0) & (enter < leave) & (enter > _NEAR), enter, FAR)


def _slab(toward: Tensor, way: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the slab between two faces."""
    inverse = torch.where(way.abs() < 1e-12, 1e-12, way).reciprocal()
    middle, reach = toward * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


_MEET = (_plane, _sphere, _box, _cylinder)
