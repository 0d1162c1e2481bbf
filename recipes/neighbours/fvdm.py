"""FVDM (arXiv 2410.03160): a vector of timesteps, so that given frames are clean beside noisy ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from memkit.generation import draw_independent, synchronous
from recipes.neighbours.neighbour import Method, Neighbour, at_most
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class FVDM(Method):
    """FVDM: window after window, each with the last frames of the one before at timestep 0.

    The same schedule with ``given=[0]`` is image-to-video, with the first and last frame it is interpolation.
    """

    window: int = 5
    """Latent frames per window; 16 in the paper."""
    kept: int = 2
    """Clean frames of the window before; 8 in the paper's code."""
    p: float = 0.2
    """In training, the probability of a timestep per frame, rather than one for all."""

    about = Neighbour(
        title="FVDM",
        paper="2410.03160 [C, S]",
        visibility="all frames of a window",
        timesteps="one per frame, 0 for conditioning frames; in training drawn per frame with probability `p`",
        positions="restart at 0 in each window",
        frequencies="–",
        trained="the whole model, with one timestep per frame",
        readings=("positions start at 0 in each window",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most("kept", self.kept, self.window - 1)

    def draw(self, levels: int, generator: torch.Generator | None = None) -> Int[Tensor, " frames"]:
        """The noise levels of a window in training."""
        return draw_independent(self.window, levels, self.p, generator)

    def sample(self, video: Video) -> Latents:
        """The windows, with their given frames."""
        noise, x = video.noise(), video.noise()[:, :, :0]
        while (count := x.shape[2]) < video.frames:
            first = max(0, count - self.kept)
            clip = torch.cat([x[:, :, first:], noise[:, :, count : first + self.window]], 2)
            schedule = synchronous(clip.shape[2], video.sampler.steps, range(count - first))
            x = torch.cat([x, video.sampler.run(clip, schedule)[:, :, count - first :]], 2)
        return x
