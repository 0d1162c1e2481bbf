"""Tracks the body that a caption names through a clip, rendered or generated, by its colour against the backdrop.

A pixel belongs to the body if it differs from the backdrop and its colour is nearer to the body's, in sun or shade,
than to a shadow, to grey, or to another body's. The largest region of such pixels is kept. How much of each pixel on
its rim it covers follows from the colours just inside and just outside, so edges and centres have subpixel accuracy,
and neither a shadow nor a slightly wrong colour moves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from memkit.display import with_shapes
from memkit.video.pixels import to_uint8
from memkit.worlds.constants import COLOURS
from memkit.worlds.event import Event, camera
from memkit.worlds.processes import blend
from memkit.worlds.render import render

DIFFERS = 0.10  # least distance from the backdrop's colour; channels are in [0, 1]
CAST = 0.25  # largest colour cast of a whole frame that is corrected
NEAR = 0.28  # largest distance from the body's colour
LIGHT = (0.40, 1.05)  # of a surface between full shade and full sun
GREYS = (0.0, 1.0)
LEAST_AREA = 0.003  # of the frame; the smallest ball covers 0.013
SOLID = 0.6  # least share of the pixels within its outline that are the body's; noise has 0.2
MOST = 0.85  # least share of the pixels of a standing body that have one of its colours
STANDING = 0.25  # least share of frames in which a standing body shows its colour


class Track(NamedTuple):
    """The body in each frame, on the CPU; NaN where it is not ``found``. Lengths are shares of the frame."""

    found: Bool[Tensor, " frames"]
    whole: Bool[Tensor, " frames"]
    """Found, and not cut off by the frame."""
    area: Float[Tensor, " frames"]
    centre: Float[Tensor, "frames 2"]
    """Centroid of its area, from the left and from the top."""
    box: Float[Tensor, "frames 4"]
    """Left, top, right, bottom: the outermost fifth of where the rows and columns through its middle begin and end."""
    axis: Float[Tensor, " frames"]
    """Angle of its longest axis from the horizontal, clockwise in the image, in (-π/2, π/2]."""
    colour: Float[Tensor, "frames 3"]
    """Mean colour in [0, 1], with light and shade as they are."""

    __repr__ = with_shapes


def track_body(video: UInt8[Tensor, "frames height width 3"], event: Event, colour: str | None = None) -> Track:
    """Follow the body of ``event.colour``, or another of the event's own that has the named ``colour``.

    Computed on the CPU, whatever the device of the video. A body that changes its colour, whose event has ``ends()``,
    must stand still.
    """
    video = video.cpu()
    backdrop = render(event.backdrop(), camera(), video.shape[1], video.shape[2])
    behind = to_uint8(backdrop.rgb).float() / 255
    rgb = _without_cast(video.float() / 255, behind)
    others = {event.colour, getattr(event, "other_colour", event.colour)} - {colour or event.colour}
    palette = _palette(event, colour or event.colour)
    mask = _coloured(rgb, behind, palette, [torch.tensor(COLOURS[name]) for name in others])
    if event.shows == "blend":  # it may pass through grey or the backdrop's colour, so look where it was seen
        mask = (mask.float().mean(0, keepdim=True) > STANDING).expand_as(mask)
    mask = _largest(_thick(mask))
    outline = _closed(mask)
    hidden = outline & (backdrop.ids > 0) & ((rgb - behind).norm(dim=-1) < DIFFERS)  # by what stands in front of it
    mask = mask | hidden
    area = mask.double().mean((1, 2))
    found = (area > LEAST_AREA) & (area > SOLID * outline.double().mean((1, 2)))
    seen = _mean_colour(rgb, mask)
    if event.shows == "blend":
        near = mask & (torch.stack([_distance(rgb, one, LIGHT) for one in palette]).amin(0) < NEAR)
        found &= near.sum((1, 2)) > MOST * mask.sum((1, 2))
    return _measure(_cover(rgb, mask), mask, seen, found)


def hue_of(track: Track, event: Event) -> str:
    """The named colour that best explains how the event's body looks, over all frames.

    Colours are compared by the angle between them, which brightness does not change.
    """
    seen = normalize(track.colour[track.found].float(), dim=-1)
    off = {}
    for name in COLOURS:
        near = seen @ normalize(_palette(event, name), dim=-1).T
        off[name] = near.amax(1).clamp(max=1).acos().mean().item()
    return min(off, key=lambda name: off[name])


def _palette(event: Event, colour: str) -> Tensor:
    """The colours [n, 3] that the event's body has, or passes through, if its colour is the named one."""
    if event.shows != "blend":
        return torch.tensor([COLOURS[colour]])
    ends = replace(event, colour=colour).ends()  # pyright: ignore
    return blend(ends, torch.linspace(0, 1, 9)).float()


def _without_cast(rgb: Tensor, behind: Tensor) -> Tensor:
    """Colours less each frame's cast, measured where the frame shows the backdrop."""
    off = rgb - behind
    off = off.masked_fill(off.norm(dim=-1, keepdim=True) > CAST, torch.nan).flatten(1, 2)
    return rgb - off.nanmedian(dim=1).values.nan_to_num()[:, None, None]


def _coloured(rgb: Tensor, behind: Tensor, palette: Tensor, others: list[Tensor]) -> Tensor:
    """Pixels [frames, height, width] that are nearer to the palette than to anything else."""
    mine = torch.stack([_distance(rgb, colour, LIGHT) for colour in palette]).amin(0)
    grey = _distance(rgb, torch.ones(3), GREYS)
    rivals = [_distance(rgb, behind, LIGHT), grey, *(_distance(rgb, other, LIGHT) for other in others)]
    differs = (rgb - behind).norm(dim=-1) > DIFFERS
    return differs & (mine < NEAR) & (mine < torch.stack(rivals).amin(0))


def _distance(rgb: Tensor, colour: Tensor, light: tuple[float, float]) -> Tensor:
    """Distance of pixels from a colour under the light that fits them best."""
    share = (rgb * colour).sum(-1) / colour.square().sum(-1).clamp(min=1e-6)
    return (rgb - share.clamp(*light)[..., None] * colour).norm(dim=-1)


def _reach(mask: Tensor) -> int:
    """Distance in pixels over which parts belong together: half the width of a pole that may stand before the body."""
    return max(1, round(mask.shape[-1] / 32))


def _spread(x: Tensor, reach: int, combine: Callable[..., Tensor]) -> Tensor:
    """Combine each pixel [frames, height, width, ...] with all in the square of radius ``reach`` around it."""
    for dim in (1, 2):
        out, size = x.clone(), x.shape[dim]
        for d in range(1, reach + 1):
            for to, fro in ((d, 0), (0, d)):
                part = out.narrow(dim, to, size - d)
                combine(part, x.narrow(dim, fro, size - d), out=part)
        x = out
    return x


def _grown(mask: Tensor, reach: int = 1) -> Tensor:
    return _spread(mask, reach, torch.logical_or)


def _closed(mask: Tensor) -> Tensor:
    """The mask with gaps of up to twice the reach between its parts closed."""
    reach = _reach(mask)
    return ~_grown(~_grown(mask, reach), reach)


def _thick(mask: Tensor) -> Tensor:
    """The mask without lines one pixel wide, which are the rims of other things; unless that removes half of it."""
    thick = mask & _grown(~_grown(~mask))
    enough = 2 * thick.sum((1, 2), keepdim=True) > mask.sum((1, 2), keepdim=True)
    return torch.where(enough, thick, mask)


def _largest(mask: Tensor) -> Tensor:
    """The largest region of each frame; parts less than a reach apart are one region."""
    frames, height, width = mask.shape
    near = _grown(mask, _reach(mask)).int()
    label, before = near * torch.arange(1, height * width + 1, dtype=torch.int32).view(height, width), None
    while before is None or not label.equal(before):
        before = label
        for _ in range(8):
            label = _spread(label, 1, torch.maximum) * near
    label = label.long().flatten(1)
    count = torch.zeros(frames, height * width + 1).scatter_add_(1, label, mask.float().flatten(1))
    count[:, 0] = 0
    return mask & (label == count.argmax(1, keepdim=True)).view_as(mask)


def _cover(rgb: Tensor, mask: Tensor) -> Tensor:
    """Share of each pixel that the body covers [frames, height, width]; on its rim, from the colours on either side."""
    inside, outside = ~_grown(~mask), ~_grown(mask)
    within = _around(rgb, inside)
    within = torch.where(within.isnan(), _around(rgb, mask), within)  # where it is too thin to have an inside
    beyond = _around(rgb, outside)
    step = within - beyond
    cover = ((rgb - beyond) * step).sum(-1) / step.square().sum(-1).clamp(min=1e-6)
    cover = torch.where(cover.isnan(), mask.float(), cover.clamp(0, 1))
    return torch.where(inside, 1.0, torch.where(outside, 0.0, cover))


def _around(rgb: Tensor, mask: Tensor) -> Tensor:
    """Mean colour of the mask's pixels within two pixels of each pixel; NaN where there are none."""
    weight = mask.to(rgb)[..., None]
    total = _spread(torch.cat([rgb * weight, weight], dim=-1), 2, torch.add)
    return total[..., :3] / total[..., 3:]


def _mean_colour(rgb: Tensor, mask: Tensor) -> Tensor:
    """Mean colour [frames, 3] of the pixels not on the mask's rim, or of all where there are no others."""
    inside = ~_grown(~mask)
    weight = torch.where(inside.any(2).any(1)[:, None, None], inside, mask).float()[..., None]
    return (rgb * weight).sum((1, 2)) / weight.sum((1, 2))


def _measure(cover: Tensor, mask: Tensor, colour: Tensor, found: Tensor) -> Track:
    _, height, width = mask.shape
    cover = cover.double()
    u, v = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    weight = cover / cover.sum((1, 2), keepdim=True)

    def mean(value: Tensor) -> Tensor:
        return (weight * value).sum((1, 2))

    cu, cv = mean(u.double()), mean(v.double()[:, None])
    du, dv = u - cu[:, None, None], v[:, None] - cv[:, None, None]
    axis = 0.5 * torch.atan2(2 * mean(du * dv), mean(du * du) - mean(dv * dv))
    across = cover.transpose(1, 2)
    edges = _edge(across), _edge(cover), 1 - _edge(across.flip(1)), 1 - _edge(cover.flip(1))
    rim = mask.any(1)[:, [0, -1]].any(1) | mask.any(2)[:, [0, -1]].any(1)

    def where_found(value: Tensor) -> Tensor:
        return torch.where(found.view(-1, *[1] * (value.ndim - 1)), value, torch.nan)

    numbers = cover.mean((1, 2)), torch.stack([cu, cv], -1), torch.stack(edges, -1), axis, colour.double()
    return Track(found, found & ~rim, *(where_found(value) for value in numbers))


def _edge(cover: Tensor) -> Tensor:
    """Where the columns begin, from the top [frames], as a share of the height; see `Track.box`."""
    _, height, width = cover.shape
    solid = cover >= 0.5
    first = solid.int().argmax(1)
    padded = torch.cat([cover.new_zeros(len(cover), 2, width), cover], dim=1)  # two rows more above
    part = sum(padded.gather(1, (first + i)[:, None])[:, 0] for i in range(3))
    edge = (first + 1 - part) / height
    column, some = torch.arange(width), solid.any(1)
    left = some.int().argmax(1, keepdim=True)
    right = width - some.flip(1).int().argmax(1, keepdim=True)
    middle = some & ((column + 0.5 - 0.5 * (left + right)).abs() < 0.3 * (right - left))
    return edge.masked_fill(~middle, torch.nan).nanquantile(0.2, dim=1)
