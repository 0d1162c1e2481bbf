"""Surfels point by point, pixel by pixel and corner by corner: what `memkit.retrievers.surfels` computes at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memkit.cameras import Cameras
from memkit.retrievers import SurfelRule


@dataclass
class Surfel:
    position: Tensor
    normal: Tensor
    side: Tensor
    radius: float
    frames: list[int] = field(default_factory=list)


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def of_frame(rule: SurfelRule, camera: Cameras, depth: Tensor) -> list[Surfel]:
    height, width = depth.shape
    columns = min(rule.columns, width)
    rows = min(max(1, columns * height // width), height)
    down = [int((i + 0.5) * height / rows) for i in range(rows)]
    at = [(i, int((j + 0.5) * width / columns)) for i in down for j in range(columns)]
    good = depth[depth.isfinite() & (depth > 0)]
    limit = good.quantile(rule.quantile).item() if len(good) else 0
    fx, fy, cx, cy = camera.intrinsics.tolist()
    origin, axis, focal = camera.c2w[:3, 3], camera.c2w[:3, 2], math.sqrt(fx * columns * fy * rows)
    ways = {}
    for i, j in at:
        way = [((j + 0.5) / width - cx) / fx, ((i + 0.5) / height - cy) / fy, 1.0]
        ways[i, j] = unit(camera.c2w[:3, :3] @ torch.tensor(way, dtype=torch.float64))
    points = {n: origin + depth[n] * ways[n] for n in at if depth[n].isfinite() and depth[n] > 0}

    def step(number: int, by: int, last: bool) -> Tensor | None:
        one, two = (at[number - by], at[number]) if last else (at[number], at[number + by])
        return unit(points[two] - points[one]) if one in points and two in points else None

    found = []
    for number, n in enumerate(at):
        if n not in points or depth[n] > limit:
            continue

        way, normal = ways[n], None
        if rows > 1 and columns > 1:
            right = step(number, 1, number % columns == columns - 1)
            below = step(number, columns, number // columns == rows - 1)
            normal = None if right is None or below is None else unit(torch.linalg.cross(right, below))
        normal = way if normal is None else normal
        normal = -normal if way @ normal < 0 else normal
        cosine = float(way @ normal)
        radius = rule.radius * float(depth[n] * (way @ axis)) / focal / (0.2 + 0.8 * abs(cosine))
        right = camera.c2w[:3, 0]
        found.append(Surfel(points[n], normal, unit(right - (right @ normal) * normal), radius))
    return found


def of_frames(rule: SurfelRule, cameras: Cameras, depth: Tensor) -> list[Surfel]:
    surfels: list[Surfel] = []
    for frame, (c2w, intrinsics, metres) in enumerate(
        zip(cameras.c2w, cameras.intrinsics, depth.double(), strict=True)
    ):
        radii = torch.tensor([each.radius for each in surfels], dtype=torch.float64)
        limit = float(radii.mean() + rule.spread * radii.std(correction=0)) if surfels else 0.0
        old = list(surfels)
        for new in of_frame(rule, Cameras(c2w, intrinsics), metres):
            for each in old:
                if (each.position - new.position).norm() <= limit and each.normal @ new.normal > rule.same_way:
                    each.frames = sorted({*each.frames, frame})
                    break
            else:
                new.frames = [frame]
                surfels.append(new)
    return surfels


def drawn(rule: SurfelRule, surfels: list[Surfel], camera: Cameras) -> list[list[int]]:
    rows, columns = rule.pixels
    fx, fy, cx, cy = camera.intrinsics.double().tolist()
    inverse = torch.linalg.inv(camera.c2w.double())
    polygons: dict[int, list[tuple[float, float]]] = {}
    depths = {}
    for number, each in enumerate(surfels):
        centre = inverse[:3, :3] @ each.position + inverse[:3, 3]
        normal = inverse[:3, :3] @ each.normal
        reach = each.radius * math.sqrt(max(0, 1 - float(normal[2]) ** 2))
        if not (rule.near < centre[2] - reach and centre[2] + reach < rule.far and centre @ normal > 0):
            continue
        other, depths[number] = torch.linalg.cross(each.normal, each.side), float(centre[2])
        corners = []
        for k in range(16):
            angle = 2 * math.pi * k / 16
            corner = each.position + each.radius * (math.cos(angle) * each.side + math.sin(angle) * other)
            x, y, z = (inverse[:3, :3] @ corner + inverse[:3, 3]).tolist()
            corners.append((columns * (rule.zoom * fx * x / z + cx), rows * (rule.zoom * fy * y / z + cy)))
        polygons[number] = corners

    def inside(corners: list[tuple[float, float]], u: float, v: float) -> bool:
        ends = zip(corners, corners[1:] + corners[:1], strict=True)
        turns = [(b[0] - a[0]) * (v - a[1]) - (b[1] - a[1]) * (u - a[0]) for a, b in ends]
        return all(turn >= 0 for turn in turns) or all(turn <= 0 for turn in turns)

    def front(i: int, j: int) -> int:
        here = [n for n, corners in polygons.items() if inside(corners, j + 0.5, i + 0.5)]
        return min(here, key=lambda n: (depths[n], n), default=-1)

    return [[front(i, j) for j in range(columns)] for i in range(rows)]


def votes(rule: SurfelRule, surfels: list[Surfel], camera: Cameras, frames: int) -> list[float]:
    count: dict[int, float] = {}
    for number in (n for row in drawn(rule, surfels, camera) for n in row if n >= 0):
        way = surfels[number].position - camera.c2w[:3, 3].double()
        weight = float(unit(way) @ surfels[number].normal) / (1 + float(way @ camera.c2w[:3, 2].double()))
        for frame in surfels[number].frames:
            count[frame] = count.get(frame, weight) + weight
    return [count.get(frame, 0.0) for frame in range(frames)]
