"""What the pixels of a gallery's video say: the colour of each panel, and where the figure is.

Where to look is known from the truth: the exact cameras and the rendered ids and depth. What is seen there is read from
the video alone, so that generated and rendered videos are measured alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.worlds.constants import COLOURS
from memkit.worlds.gallery import CENTRE_HEIGHT, HALF_WIDTH, PALETTE, PANELS, Gallery
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

    def __getitem__(self, frames: slice | list[int]) -> Views:
        at = Cameras(self.cameras.c2w[frames], self.cameras.intrinsics[frames])
        return Views(self.middles[frames], self.panels[frames], self.figure[frames], at)

    @property
    def readable(self) -> Bool[Tensor, "frames panels"]:
        """Whether enough of a panel's middle is in view."""
        return self.middles.sum((2, 3)) >= LEAST_PIXELS


def views(clip: GalleryClip, frames: int, fps: float, size: int) -> Views:
    """What is where in the first ``frames`` frames of a clip, at ``size``×``size`` pixels."""
    cameras, scene = clip.cameras(frames, fps), clip.scene(frames, fps)
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
