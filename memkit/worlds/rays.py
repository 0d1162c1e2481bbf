"""Where rays meet bodies. Layout: [frames, bodies, 3, rays], and 1 where a size does not matter, for broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from memkit.worlds.scene import Body, Scene

FAR = 1e9
_NEAR = 1e-9
_ORDER = ("plane", "sphere", "box", "cylinder")
_PLANE, _SPHERE, _BOX, _CYLINDER = range(4)


class Surface(NamedTuple):
    """Of each hit [frames, rays]: normal [frames, 3, rays], colour, face 0–2, whether it lies in a dark square."""

    normal: Tensor
    colour: Tensor
    face: Tensor
    dark: Tensor


@dataclass(frozen=True)
class Pack:
    """The bodies of some frames as tensors, sorted by shape; ``ids`` are their places in the scene."""

    groups: tuple[tuple[int, slice], ...]
    ids: Tensor
    kind: Tensor
    centre: Tensor  # [frames, bodies, 3]
    half: Tensor
    colour: Tensor
    turn: Tensor | None  # [frames, bodies, 3, 3]
    checker: Tensor | None
    sky: Tensor
    gain: Tensor

    def trace(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest hit of each ray [frames, rays]: its distance, FAR for none, and which body of the pack."""
        hits = [self._meet(kind, group, origin, direction) for kind, group in self.groups]
        nearest = torch.cat(hits, dim=1).min(dim=1)
        return nearest.values, nearest.indices

    def blocked(self, origin: Tensor, direction: Tensor) -> Tensor:
        """Whether anything but a plane stands in the way [frames, rays]."""
        blocked = torch.zeros_like(origin[:, 0], dtype=torch.bool)
        for kind, group in self.groups:
            if kind != _PLANE:
                blocked |= (self._meet(kind, group, origin, direction) < FAR).any(1)
        return blocked

    def _meet(self, kind: int, group: slice, origin: Tensor, direction: Tensor) -> Tensor:
        """Distances [frames, bodies of the group, rays]."""
        toward = self.centre[:, group, :, None] - origin[:, None]
        direction = direction[:, None]
        if self.turn is not None and kind != _SPHERE:
            back = self.turn[:, group].transpose(-1, -2)
            toward, direction = back @ toward, back @ direction
        return _MEET[kind](toward, direction, self.half[:, group, :, None])

    def surface(self, point: Tensor, which: Tensor) -> Surface:
        """Normal, colour and pattern at points [frames, 3, rays] of bodies [frames, rays]."""
        local = point - _of(self.centre, which)
        turn = None
        if self.turn is not None:
            turn = _of(self.turn.flatten(2), which).unflatten(1, (3, 3))
            local = (turn * local[:, :, None]).sum(1)
        half, kind = _of(self.half, which), self.kind[which]
        scaled = local / half
        box = kind == _BOX
        cap = ((kind == _CYLINDER) & (scaled[:, 2].abs() > 1 - 1e-9)) | (kind == _PLANE)
        sx, sy, sz = scaled.abs().unbind(1)
        widest = torch.where(sz >= torch.maximum(sx, sy), 2, torch.where(sy >= sx, 1, 0))
        face = torch.where(box, widest, torch.where(cap, 2, 0))
        flat = torch.nn.functional.one_hot(face, 3).movedim(-1, 1) * scaled.sign()
        flat[:, 2].masked_fill_(kind == _PLANE, 1.0)
        upright = torch.ones_like(local)
        upright[:, 2].masked_fill_(kind == _CYLINDER, 0.0)
        round_ = local * upright
        round_ = round_ / round_.square().sum(1, keepdim=True).clamp(min=1e-18).sqrt()
        normal = torch.where((box | cap)[:, None], flat, round_)
        dark = self._dark(local, face, which)
        if turn is not None:
            normal = (turn * normal[:, None]).sum(2)
        return Surface(normal, _of(self.colour, which).movedim(1, -1), face, dark)

    def _dark(self, local: Tensor, face: Tensor, which: Tensor) -> Tensor:
        if self.checker is None:
            return torch.zeros_like(face, dtype=torch.bool)
        cell = self.checker[which]
        offset = 1e-3 * 2**0.5  # no edge on a round number
        squares = (local / torch.where(cell > 0, cell, 1.0)[:, None] + offset).floor()
        squares = squares * (1 - torch.nn.functional.one_hot(face, 3).movedim(-1, 1))
        return (squares.sum(1) % 2 == 1) & (cell > 0)


def pack_scene(scene: Scene, block: slice, frames: int, device: torch.device) -> Pack:
    """The bodies of frames ``block`` of ``frames`` on a device, in float64."""
    order = sorted(range(len(scene.bodies)), key=lambda i: _ORDER.index(scene.bodies[i].shape))
    bodies = [scene.bodies[i] for i in order]
    kinds = [_ORDER.index(body.shape) for body in bodies]
    bounds = [(kind, [i for i, k in enumerate(kinds) if k == kind]) for kind in sorted(set(kinds))]

    def stack(get: Callable[[Body], Tensor], *shape: int) -> Tensor:
        rows = [get(b).to(device, torch.float64).expand(frames, *shape)[block] for b in bodies]
        return torch.stack(rows, dim=1)

    eye = torch.eye(3, dtype=torch.float64)[None]
    gain = torch.ones(1) if scene.gain is None else scene.gain
    turned, checkers = any(b.turn is not None for b in bodies), [b.checker for b in bodies]
    return Pack(
        groups=tuple((kind, slice(places[0], places[-1] + 1)) for kind, places in bounds),
        ids=torch.tensor(order, device=device),
        kind=torch.tensor(kinds, device=device),
        centre=stack(lambda b: b.centre, 3),
        half=stack(lambda b: b.half, 3),
        colour=stack(lambda b: b.colour, 3),
        turn=stack(lambda b: eye if b.turn is None else b.turn, 3, 3) if turned else None,
        checker=torch.tensor(checkers, device=device, dtype=torch.float64) if any(checkers) else None,
        sky=torch.tensor(scene.sky, device=device, dtype=torch.float64),
        gain=gain.to(device, torch.float64).expand(frames)[block],
    )


def _of(values: Tensor, which: Tensor) -> Tensor:
    """Rows [frames, bodies, n] of the bodies that rays hit, as [frames, n, rays]."""
    index = which[:, None].expand(-1, values.shape[2], -1)
    return values.movedim(1, 2).gather(2, index)


def _plane(toward: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    down = direction[:, :, 2]
    distance = toward[:, :, 2] / torch.where(down < -_NEAR, down, -1.0)
    return torch.where((down < -_NEAR) & (distance > _NEAR), distance, FAR)


def _sphere(toward: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    b = _dot(toward, direction)
    spare = b * b - (_dot(toward, toward) - half[:, :, 0] ** 2)
    distance = b - spare.clamp(min=0).sqrt()
    return torch.where((spare > 0) & (distance > _NEAR), distance, FAR)


def _box(toward: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    inverse = torch.where(direction.abs() < 1e-12, 1e-12, direction).reciprocal()
    middle, reach = toward * inverse, half * inverse.abs()
    (ex, ey, ez), (lx, ly, lz) = (middle - reach).unbind(2), (middle + reach).unbind(2)
    enter = torch.maximum(torch.maximum(ex, ey), ez)
    leave = torch.minimum(torch.minimum(lx, ly), lz)
    return torch.where((enter < leave) & (enter > _NEAR), enter, FAR)


def _cylinder(toward: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    (ox, oy, oz), (dx, dy, dz) = toward.unbind(2), direction.unbind(2)
    a = (dx * dx + dy * dy).clamp(min=1e-12)
    b = ox * dx + oy * dy
    spare = b * b - a * (ox * ox + oy * oy - half[:, :, 0] ** 2)
    root = spare.clamp(min=0).sqrt()
    inverse = torch.where(dz.abs() < 1e-12, 1e-12, dz).reciprocal()
    middle, reach = oz * inverse, half[:, :, 2] * inverse.abs()
    enter = torch.maximum((b - root) / a, middle - reach)
    leave = torch.minimum((b + root) / a, middle + reach)
    return torch.where((spare > 0) & (enter < leave) & (enter > _NEAR), enter, FAR)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[:, :, 0] * b[:, :, 0] + a[:, :, 1] * b[:, :, 1] + a[:, :, 2] * b[:, :, 2]


_MEET = (_plane, _sphere, _box, _cylinder)
