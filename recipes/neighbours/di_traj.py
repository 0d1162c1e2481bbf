"""DiTraj (September 2025): an object on a trajectory keeps the positions that it has in an anchor frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memkit.generation import embed_short
from memkit.injectors import TextRegions
from memkit.positions import TokenPositions, moved_box
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class DiTraj(Method):
    """DiTraj, training-free: the positions of the tokens in a box that moves on a line."""

    start: tuple[int, int] = (1, 0)
    """Row and column of the box in the first frame, in tokens (patches)."""
    stop: tuple[int, int] = (1, 2)
    """The same in the last frame; equal to ``start``, the method changes nothing."""
    size: tuple[int, int] = (2, 2)
    """Height and width of the box in tokens."""
    anchor: int = 0  # the latent frame whose positions the object keeps
    foreground: str = ""
    """Prompt of the tokens in the box in the conditional pass; by default that of the video."""
    background: str = ""  # the same for all others

    about = Neighbour(
        title="DiTraj",
        paper="[A, S]",
        visibility="all frames; one prompt inside the box, another outside",
        timesteps="the same for all frames",
        positions="inside the box: rows and columns of the anchor frame; time unchanged",
        frequencies="–",
        trained="",
        readings=(
            "we know the abstract and second-hand accounts, but not the arXiv number",
            "prompts by region act in the conditional pass only",
            "boxes have a constant size and move along a straight line",
        ),
    )

    def sample(self, video: Video) -> Latents:
        """Plain sampling with the positions attached."""
        (_, down, across), (height, width) = video.sizes.patch_size, video.noise(range(1)).shape[3:]
        last, boxes = max(1, video.frames - 1), []
        inside = torch.ones(video.frames, height // down, width // across, dtype=torch.long)
        for frame in range(video.frames):
            row, column = (round(a + (b - a) * frame / last) for a, b in zip(self.start, self.stop, strict=True))
            boxes.append((row, column, *self.size))
            inside[frame, row : row + self.size[0], column : column + self.size[1]] = 2
        index = moved_box(boxes, height // down, width // across, self.anchor)
        prompts = self.background or video.prompt, self.foreground or video.prompt
        texts = [embed_short(video.backbone, [prompt], video.text_length) for prompt in prompts]
        regions = TextRegions(inside.flatten(1) * bool(self.foreground or self.background), texts)
        with TokenPositions(index).attach(video.backbone), regions.attach(video.backbone):
            return video.plain()
