"""A small deterministic ray caster: convex bodies, one sun, hard shadows; colour, depth and ids.

All arithmetic is in float64, so that different rounding on another machine changes one of 10¹⁰ rays at an edge, instead
of one of 10⁵. One ray goes through each pixel; where neighbouring pixels show different surfaces, the colour is the
mean of four more rays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.worlds.bounds import on_screen
from memkit.worlds.rays import FAR, PLANE, Pack, pack_scene, select
from memkit.worlds.scene import Scene

SKY_ID = -1
AMBIENT = 0.45
_DARK_SQUARE = 0.7
_LIGHT = (-0.35, -0.45, 0.82)
_LIFT = 1e-6  # metres above the surface at which a shadow ray starts
_CORNERS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))  # a rotated grid, in pixels
_RAYS_AT_ONCE = {"cpu": 2**15, "cuda": 2**21}  # nearly fits the cache of a CPU core; fills a GPU


class Render(NamedTuple):
    """``rgb`` in [0, 1]; ``depth``: metres along the ray, inf for the sky; ``ids``: indices in the scene, or SKY_ID."""

    rgb: Float[Tensor, "frames height width 3"]
    depth: Float[Tensor, "frames height width"]
    ids: Int[Tensor, "frames height width"]

    __repr__ = with_shapes


def render(scene: Scene, cameras: Cameras, height: int = 64, width: int = 64, antialias: bool = True) -> Render:
    """Render a scene from one camera per frame (or one camera for all frames), on the cameras' device.

    Colour is the mean of four rays where a pixel's neighbours see another surface, face, square or shadow; depth and
    ids are those of the ray through the pixel's centre. A body thinner than a pixel may be missed.

    Raises `InputError` if the numbers of frames disagree.
    """
    views = cameras.c2w.reshape(-1, 4, 4).double()
    intrinsics = cameras.intrinsics.reshape(-1, 4).double()
    frames = max(scene.frames, len(views))
    if {scene.frames, len(views)} - {1, frames}:
        raise InputError(
            f"{scene.frames} frames of a scene and {len(views)} cameras; give one per frame, or one for all."
        )
    views, intrinsics = views.expand(frames, 4, 4), intrinsics.expand(frames, 4)
    step = max(1, _RAYS_AT_ONCE.get(views.device.type, 2**13) // (height * width))
    parts = []
    for i in range(0, frames, step):
        block = slice(i, min(i + step, frames))
        pack = pack_scene(scene, block, frames, views.device)
        parts.append(_render_block(pack, views[block], intrinsics[block], height, width, antialias))
    return Render(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _render_block(pack: Pack, views: Tensor, intrinsics: Tensor, height: int, width: int, antialias: bool) -> Render:
    shape = (len(views), height, width)
    row, column = (torch.arange(n, device=views.device, dtype=views.dtype) + 0.5 for n in (height, width))
    row, column = row.repeat_interleave(width), column.repeat(height)
    frame = torch.arange(len(views), device=views.device).repeat_interleave(height * width)
    possible = _possible(pack, views, intrinsics, height, width)
    rays = _rays(views[..., None], intrinsics[..., None], column / width, row / height)
    rgb, surface, depth, ids = _look(pack, *rays, frame, possible)
    if antialias:
        edge = _edges(surface.view(shape)).flatten().nonzero()[:, 0]
        many = edge.repeat_interleave(len(_CORNERS))
        right, down = views.new_tensor(_CORNERS).repeat(len(edge), 1).T
        frame, pixel = frame[many], many % (height * width)
        rays = _rays(views[frame], intrinsics[frame], (column[pixel] + right) / width, (row[pixel] + down) / height)
        fine, *_ = _look(pack, *rays, frame, possible.index_select(1, many))
        rgb[edge] = fine.unflatten(0, (-1, len(_CORNERS))).mean(1)
    return Render(rgb.clamp(0, 1).float().view(*shape, 3), depth.float().view(shape), ids.view(shape))


def _possible(pack: Pack, views: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Whether a body may be visible in a pixel [bodies, frames * height * width]."""
    low, high = on_screen(pack.corners, views, intrinsics)
    low, high = low[..., None], high[..., None]
    left, top = (torch.arange(n, device=views.device) / n for n in (width, height))
    across = (left + 1 / width > low[:, :, 0]) & (left < high[:, :, 0])
    down = (top + 1 / height > low[:, :, 1]) & (top < high[:, :, 1])
    endless = (pack.kind == PLANE)[:, None, None, None]
    return ((down[..., None] & across[..., None, :]) | endless).flatten(1)


def _rays(views: Tensor, intrinsics: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions [3, rays] through image points (u, v), as shares of width and height.

    ``views`` are [rays, 4, 4], or [frames, 4, 4, 1], where each frame has all (u, v); ``intrinsics`` likewise.
    """
    x, y = (u - intrinsics[:, 2]) / intrinsics[:, 0], (v - intrinsics[:, 3]) / intrinsics[:, 1]
    way = torch.stack([views[:, i, 0] * x + views[:, i, 1] * y + views[:, i, 2] for i in range(3)])
    origin = views[:, :3, 3].transpose(0, 1).expand_as(way)
    return origin.reshape(3, -1), (way / way.square().sum(0).sqrt()).reshape(3, -1)


def _look(
    pack: Pack, origin: Tensor, direction: Tensor, frame: Tensor, possible: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Trace and shade rays: colour [rays, 3], a number that distinguishes surfaces, distance, id."""
    depth, which = pack.trace(origin, direction, frame, possible)
    hit = (depth < FAR).nonzero()[:, 0]
    depth.masked_fill_(depth >= FAR, torch.inf)
    rgb = pack.sky.repeat(len(frame), 1)
    surface, ids = torch.full_like(frame, -1), torch.full_like(frame, SKY_ID)
    if len(hit):
        way, distance, body = (
            torch.stack(select(direction, hit)),
            depth.index_select(0, hit),
            which.index_select(0, hit),
        )
        point = torch.stack(select(origin, hit)) + way * distance
        rgb[hit], surface[hit] = _shade(pack, point, body, frame.index_select(0, hit))
        ids[hit] = pack.ids.index_select(0, body)
    return rgb * pack.gain.index_select(0, frame)[:, None], surface, depth, ids


def _shade(pack: Pack, point: Tensor, which: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Colour [rays, 3] of points [3, rays] of bodies [rays], and a number that distinguishes surfaces."""
    hit = pack.surface(point, which, frame)
    light = torch.nn.functional.normalize(point.new_tensor(_LIGHT), dim=0)
    facing = (hit.normal * light[:, None]).sum(0)
    lit = (facing > 0).nonzero()[:, 0]
    start = torch.stack(select(point + _LIFT * hit.normal, lit))
    shaded = pack.blocked(start, light, frame.index_select(0, lit))
    diffuse = torch.zeros_like(facing).scatter_(0, lit, facing.index_select(0, lit).masked_fill(shaded, 0.0))
    tone = (AMBIENT + (1 - AMBIENT) * diffuse) * torch.where(hit.dark, _DARK_SQUARE, 1.0)
    return hit.colour * tone[:, None], ((which * 3 + hit.face) * 2 + hit.dark) * 2 + (diffuse > 0)


def _edges(surface: Tensor) -> Tensor:
    """Pixels [frames, height, width] with another surface in any of their four neighbours."""
    edge = torch.zeros_like(surface, dtype=torch.bool)
    across, down = surface[:, :, 1:] != surface[:, :, :-1], surface[:, 1:] != surface[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge
