"""A small deterministic ray caster: convex bodies, one sun, hard shadows; colour, depth and ids.

It is there for exactness, not beauty. All arithmetic is float64, so that what rounds differently on another machine
changes an edge in one of 10¹⁰ rays, not in one of 10⁵. One ray goes through each pixel; where neighbours see different
things, four more find the share of each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.worlds.rays import FAR, Pack, pack_scene
from memkit.worlds.scene import Scene

SKY_ID = -1
_AMBIENT = 0.45
_DARK_SQUARE = 0.7
_LIGHT = (-0.35, -0.45, 0.82)
_LIFT = 1e-6  # metres above its surface where a shadow's ray starts
_CORNERS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))  # a rotated grid, in pixels
_RAYS_AT_ONCE = {"cpu": 2**14, "cuda": 2**21}  # what fits the cache of a core; what fills a GPU


class Render(NamedTuple):
    """``rgb`` in [0, 1]; ``depth``: metres along the ray, inf for the sky; ``ids``: places in the scene, or SKY_ID."""

    rgb: Float[Tensor, "frames height width 3"]
    depth: Float[Tensor, "frames height width"]
    ids: Int[Tensor, "frames height width"]


def render(scene: Scene, cameras: Cameras, height: int = 64, width: int = 64, antialias: bool = True) -> Render:
    """Render a scene from one camera a frame (or one camera for all frames), on the cameras' device.

    Colour is the mean of four rays where a pixel's neighbours see another surface, another face, square or shadow;
    depth and ids are those of the ray through the pixel's centre. A body thinner than a pixel may be lost between rays.

    Raises `InputError` if the numbers of frames disagree.
    """
    views = cameras.c2w.reshape(-1, 4, 4).double()
    lenses = cameras.intrinsics.reshape(-1, 4).double()
    frames = max(scene.frames, len(views))
    if {scene.frames, len(views)} - {1, frames}:
        raise InputError(f"{scene.frames} frames of a scene and {len(views)} cameras; give as many, or one.")
    views, lenses = views.expand(frames, 4, 4), lenses.expand(frames, 4)
    step = max(1, _RAYS_AT_ONCE.get(views.device.type, 2**13) // (height * width))
    parts = []
    for i in range(0, frames, step):
        block = slice(i, min(i + step, frames))
        pack = pack_scene(scene, block, frames, views.device)
        parts.append(_render_block(pack, views[block], lenses[block], height, width, antialias))
    return Render(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _render_block(pack: Pack, views: Tensor, lenses: Tensor, height: int, width: int, antialias: bool) -> Render:
    pixels = torch.arange(height * width, device=views.device)
    row, column = pixels // width + 0.5, pixels % width + 0.5
    origin = views[:, :3, 3:]
    rgb, surface, depth, ids = _look(pack, origin, _directions(views, lenses, column / width, row / height))
    if antialias:
        edge = _edges(surface.view(-1, height, width)).flatten(1)
        frame, pixel = edge.nonzero(as_tuple=True)
        if len(frame):
            place = (
                edge.cumsum(1)[frame, pixel] - 1
            )  # among the edge pixels of its frame; frames are padded to the longest
            index = pixel.new_zeros(len(views), int(place.max()) + 1)
            index[frame, place] = pixel
            offset = torch.tensor(_CORNERS, device=views.device, dtype=views.dtype)
            u = ((column[index][..., None] + offset[:, 0]) / width).flatten(1)
            v = ((row[index][..., None] + offset[:, 1]) / height).flatten(1)
            fine, *_ = _look(pack, origin, _directions(views, lenses, u, v))
            rgb[frame, pixel] = fine.unflatten(1, (-1, len(_CORNERS))).mean(2)[frame, place]
    shape = (len(views), height, width)
    return Render(rgb.clamp(0, 1).float().view(*shape, 3), depth.float().view(shape), ids.view(shape))


def _directions(views: Tensor, lenses: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Unit directions [frames, 3, rays] through (u, v), shares of the image."""
    fx, fy, cx, cy = lenses[..., None].unbind(-2)
    x, y = (u - cx) / fx, (v - cy) / fy
    rays = views[:, :3, :3] @ torch.stack([x, y, torch.ones_like(x)], dim=1)
    return rays / rays.square().sum(1, keepdim=True).sqrt()


def _look(pack: Pack, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each ray sees [frames, rays]: colour, a number that tells surfaces apart, distance, id."""
    depth, which = pack.trace(origin, direction)
    sky = depth >= FAR
    point = origin + direction * depth.masked_fill(sky, 0.0)[:, None]
    hit = pack.surface(point, which)
    light = torch.nn.functional.normalize(torch.tensor(_LIGHT, device=point.device, dtype=point.dtype), dim=0)
    facing = (hit.normal * light[:, None]).sum(1)
    shaded = pack.blocked(point + _LIFT * hit.normal, light[None, :, None])
    diffuse = facing.clamp(min=0).masked_fill(shaded, 0.0)
    tone = (_AMBIENT + (1 - _AMBIENT) * diffuse) * torch.where(hit.dark, _DARK_SQUARE, 1.0)
    rgb = torch.where(sky[..., None], pack.sky, hit.colour * tone[..., None]) * pack.gain[:, None, None]
    surface = ((which * 3 + hit.face) * 2 + hit.dark) * 2 + (diffuse > 0)
    ids = pack.ids[which].masked_fill(sky, SKY_ID)
    return rgb, surface.masked_fill(sky, -1), depth.masked_fill(sky, torch.inf), ids


def _edges(surface: Tensor) -> Tensor:
    """Pixels [frames, height, width] one of whose four neighbours sees another surface."""
    edge = torch.zeros_like(surface, dtype=torch.bool)
    across, down = surface[:, :, 1:] != surface[:, :, :-1], surface[:, 1:] != surface[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge
