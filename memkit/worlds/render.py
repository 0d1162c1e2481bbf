"""A small deterministic ray caster: spheres and boxes on a floor before a wall of sky, one light, hard shadows.

It is there for exactness, not beauty: every pixel comes with its depth and the id of the body seen.
World axes are x right, y away, z up, in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.cameras import Cameras

FLOOR_ID, SKY_ID = -1, -2
_AMBIENT = 0.45
_LIGHT = (-0.35, -0.45, 0.82)
_FAR = 1e6


@dataclass(frozen=True)
class Scene:
    """Bodies that move over ``frames``; a body is a sphere or an axis-aligned box.

    ``half`` holds half extents in metres; a sphere uses ``half[..., 0]`` as its radius. Colours are in [0, 1].
    """

    centre: Float[Tensor, "frames bodies 3"]
    half: Float[Tensor, "frames bodies 3"]
    colour: Float[Tensor, "bodies 3"]
    is_sphere: tuple[bool, ...]
    floor_colour: Float[Tensor, "3"]
    sky_colour: Float[Tensor, "3"]


class Render(NamedTuple):
    """``rgb`` in [0, 1]; ``depth`` in metres along the ray, inf for the sky; ``ids`` of bodies, or FLOOR_ID, SKY_ID."""

    rgb: Float[Tensor, "frames height width 3"]
    depth: Float[Tensor, "frames height width"]
    ids: Int[Tensor, "frames height width"]


def render(scene: Scene, cameras: Cameras, height: int = 64, width: int = 64, supersample: int = 2) -> Render:
    """Render a scene from one camera a frame (or one camera for all frames).

    Colour is averaged over ``supersample``² rays a pixel; depth and ids are those of the first of them.
    """
    frames = scene.centre.shape[0]
    origin, direction = cameras.rays(height * supersample, width * supersample)
    origin = origin.reshape(-1, 1, 3).expand(frames, -1, -1)
    direction = direction.reshape(-1, height * supersample * width * supersample, 3).expand(frames, -1, -1)
    depth, ids = _trace(scene, origin.expand_as(direction), direction)
    rgb = _shade(scene, origin + direction * depth.clamp(max=_FAR)[..., None], ids)
    fine = (frames, height, supersample, width, supersample)
    rgb = rgb.reshape(*fine, 3).mean(dim=(2, 4))
    depth, ids = depth.reshape(fine)[:, :, 0, :, 0], ids.reshape(fine)[:, :, 0, :, 0]
    return Render(rgb.clamp(0, 1), depth.masked_fill(ids == SKY_ID, torch.inf), ids)


def _trace(scene: Scene, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest hit of each ray [frames, rays]: its distance and what it is."""
    downward = direction[..., 2].clamp(max=-1e-9)
    floor = torch.where(direction[..., 2] < -1e-9, -origin[..., 2] / downward, _FAR)
    nearest = floor.clamp(max=_FAR)
    ids = torch.where(nearest < _FAR, FLOOR_ID, SKY_ID)
    for body, is_sphere in enumerate(scene.is_sphere):
        centre, half = scene.centre[:, body, None], scene.half[:, body, None]
        hit = (_hit_sphere if is_sphere else _hit_box)(origin - centre, direction, half)
        closer = hit < nearest
        nearest, ids = torch.where(closer, hit, nearest), torch.where(closer, body, ids)
    return nearest, ids


def _hit_sphere(origin: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    b = (origin * direction).sum(-1)
    discriminant = b * b - (origin * origin).sum(-1) + half[..., 0] ** 2
    distance = -b - discriminant.clamp(min=0).sqrt()
    return torch.where((discriminant > 0) & (distance > 1e-4), distance, _FAR)


def _hit_box(origin: Tensor, direction: Tensor, half: Tensor) -> Tensor:
    inverse = 1.0 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
    a, b = (-half - origin) * inverse, (half - origin) * inverse
    enter, leave = torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)
    return torch.where((enter < leave) & (enter > 1e-4), enter, _FAR)


def _shade(scene: Scene, point: Tensor, ids: Tensor) -> Tensor:
    light = torch.nn.functional.normalize(torch.tensor(_LIGHT).to(point), dim=0)
    palette = torch.cat([scene.colour, scene.sky_colour[None], scene.floor_colour[None]])  # ids -2, -1 wrap to the end
    normal = torch.zeros_like(point)
    normal[..., 2] = 1.0
    for body, is_sphere in enumerate(scene.is_sphere):
        offset = (point - scene.centre[:, body, None]) / scene.half[:, body, None]
        if not is_sphere:  # the face is the axis on which the hit lies farthest out
            offset = offset.sign() * (offset.abs() >= offset.abs().amax(-1, keepdim=True) - 1e-6)
        mine = (ids == body)[..., None]
        normal = torch.where(mine, torch.nn.functional.normalize(offset, dim=-1), normal)
    diffuse = (normal * light).sum(-1).clamp(min=0)
    blocked, _ = _trace(scene, point + 1e-3 * normal, light.expand_as(point))
    diffuse = torch.where(blocked < _FAR, 0.0, diffuse)
    lit = palette[ids] * (_AMBIENT + (1 - _AMBIENT) * diffuse)[..., None]
    return torch.where((ids == SKY_ID)[..., None], palette[ids], lit)
