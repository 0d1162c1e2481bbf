"""What the pixels of a gallery's video say: the colour of each panel, and where the figure is.

Where to look is known from the truth: the exact cameras and the rendered ids and depth. What is seen there is read from
the video alone, so that generated and rendered videos are measured alike.

The panels of a chunk are of three kinds. A *returned* panel is not in the frame that the chunk begins with and was seen
in a conditioning frame before it, so only memory knows its colour: without, one of eight is right by chance. A *given*
panel is in the frame that the chunk begins with. A *new* panel was in no frame before: chance again, with memory too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.worlds.constants import COLOURS
from memkit.worlds.gallery import CENTRE_HEIGHT, GALLERY_FOV, HALF_WIDTH, PALETTE, PANELS, Gallery
from memkit.worlds.gallery_tours import GalleryClip
from memkit.worlds.render import render

CHANCE = 1 / len(PALETTE)
UNSEEN = -1
"""Instead of a colour, for a panel whose middle is not in view."""
MIDDLE = 0.5
"""Share of a panel's width and height that is its middle."""
LEAST_PIXELS = 12
"""Least pixels of a panel's middle by which its colour is read."""
FIGURE_PIXELS = 24
"""Least pixels by which the figure is found, in the truth as in a video."""
STRIDE = 4
"""Every fourth frame is read: those at which the latent frames stand."""
NEAR_DEGREES = 10.0
"""The figure is found if it is this close to where it should be."""
_DARK = 80  # a figure's largest channel is 8, that of everything else at least 115


@dataclass(frozen=True)
class Views:
    """What is where in each frame of the truth."""

    middles: Bool[Tensor, "frames panels height width"]
    """Pixels of the middle of each panel that nothing hides."""
    panels: Int[Tensor, "frames panels"]
    """Number of pixels of each panel, with its edges."""
    figure: Bool[Tensor, "frames height width"]
    """Pixels of the figure."""
    cameras: Cameras

    @property
    def readable(self) -> Bool[Tensor, "frames panels"]:
        """Whether enough of a panel's middle is in view."""
        return self.middles.sum((2, 3)) >= LEAST_PIXELS


def views(clip: GalleryClip, frames: Sequence[int], fps: float, size: int) -> Views:
    """What is where in some frames of a clip, at ``size``×``size`` pixels."""
    seconds = clip.start_seconds + torch.tensor(frames, dtype=torch.float64) / fps
    cameras, scene = clip.path.cameras(seconds, GALLERY_FOV), clip.gallery.scene(seconds)
    _, depth, ids = render(scene, cameras, size, size, antialias=False)
    origin, rays = cameras.rays(size, size)
    points = origin[:, None, None] + rays * depth[..., None].nan_to_num(posinf=0.0)
    middles = []
    for i, panel in enumerate(clip.gallery.panels):
        x, y, _ = panel.centre
        aside = (points[..., 0] - x) * math.sin(panel.angle) - (points[..., 1] - y) * math.cos(panel.angle)
        inside = torch.maximum(aside.abs(), (points[..., 2] - CENTRE_HEIGHT).abs()) <= MIDDLE * HALF_WIDTH
        middles.append((ids == i) & inside)
    panels = torch.stack([(ids == i).sum((1, 2)) for i in range(PANELS)], dim=1)
    figure = ids == (scene.index("figure") if clip.gallery.figure else -2)
    return Views(torch.stack(middles, dim=1), panels, figure, cameras)


class ChunkScores(NamedTuple):
    """The scores of the last chunk of a video; NaN if there is nothing to measure."""

    returned: float
    """Share of returned panels whose colour is right."""
    given: float
    """Share of given panels whose colour is right."""
    new: float
    """Share of new panels whose colour is right."""
    again: float
    """Share of panels that are not in the frame the chunk begins with and have the colour that they had in this video
    when they were last in view."""
    figure: float
    """Share of frames that show the figure in the truth in which it is found within 10°."""
    figure_degrees: float
    """Mean distance of the figure from where it should be, where it is found at all."""


def score_chunk(
    clip: GalleryClip, fps: float, video: UInt8[Tensor, "frames h w 3"], conditioning_frames: int, chunk_frames: int
) -> ChunkScores:
    """The scores of the last ``chunk_frames`` frames of a video of a clip, the first of which is the given frame.

    The first ``conditioning_frames`` frames of the video are those of the clip; the others are generated.
    """
    first = len(video) - chunk_frames
    past, chunk = range(0, first + 1, STRIDE), range(first + STRIDE, len(video), STRIDE)
    before, at = (views(clip, frames, fps, video.shape[2]) for frames in (past, chunk))
    found, earlier = read_colours(video[list(chunk)], at), read_colours(video[list(past)], before)
    readable, right = at.readable, found == true_colours(clip.gallery)
    known = sum(i < conditioning_frames for i in past)
    hidden, seen = before.panels[-1] == 0, before.readable[:known].any(0)
    own = torch.full_like(found[0], UNSEEN)  # the colour of each panel in this video when it was last in view
    for colours in earlier:
        own = torch.where(colours == UNSEEN, own, colours)
    wanted, got = true_direction(at), read_direction(video[list(chunk)], at)
    off = (got - wanted).abs()
    return ChunkScores(
        returned=_share(right, readable & hidden & seen),
        given=_share(right, readable & ~hidden),
        new=_share(right, readable & hidden & ~before.readable.any(0)),
        again=_share(found == own, readable & hidden & (own != UNSEEN)),
        figure=_share(off < NEAR_DEGREES, ~wanted.isnan()),
        figure_degrees=off[~off.isnan()].mean().item(),
    )


def _share(right: Bool[Tensor, " *shape"], of: Bool[Tensor, " *shape"]) -> float:
    count = of.sum().item()
    return math.nan if not count else (right & of).sum().item() / count


def true_colours(gallery: Gallery) -> Int[Tensor, " panels"]:
    """Indices in `PALETTE`."""
    return torch.tensor([PALETTE.index(panel.colour) for panel in gallery.panels])


def read_colours(video: UInt8[Tensor, "frames height width 3"], at: Views) -> Int[Tensor, "frames panels"]:
    """The colour of each panel as an index in `PALETTE`: the nearest to the mean of its middle, or `UNSEEN`."""
    palette = torch.tensor([COLOURS[name] for name in PALETTE])
    weights = at.middles.flatten(2).float()
    mean = weights @ (video.flatten(1, 2).float() / 255) / weights.sum(2, keepdim=True).clamp(min=1)
    nearest = torch.cdist(mean, palette.expand(len(mean), -1, -1)).argmin(2)
    return nearest.masked_fill(~at.readable, UNSEEN)


def true_direction(at: Views) -> Float[Tensor, " frames"]:
    """Direction of the figure in the truth, in degrees to the right of the image's middle; NaN where it is hidden."""
    return _direction(at.figure, at.cameras)


def read_direction(video: UInt8[Tensor, "frames height width 3"], at: Views) -> Float[Tensor, " frames"]:
    """Direction of the figure in a video: that of the mean column of its dark pixels; NaN where there are too few."""
    return _direction(video.amax(3) < _DARK, at.cameras)


def _direction(mask: Bool[Tensor, "frames height width"], cameras: Cameras) -> Float[Tensor, " frames"]:
    columns, width = mask.sum(1).double(), mask.shape[2]
    count = columns.sum(1)
    u = columns @ (torch.arange(width, dtype=torch.float64) + 0.5) / width / count.clamp(min=1)
    angle = torch.rad2deg(((u - cameras.intrinsics[:, 2]) / cameras.intrinsics[:, 0]).atan())
    return angle.masked_fill(count < FIGURE_PIXELS, math.nan)
