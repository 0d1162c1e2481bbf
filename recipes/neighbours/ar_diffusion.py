"""AR-Diffusion (arXiv 2503.07418): frames that never get noisier towards the past, in a causal order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from memkit.frame_graph import FrameGraph
from memkit.generation import draw_monotone, lagged
from memkit.injectors import FrameVisibility
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


def causal(frames: int) -> Bool[Tensor, "frames frames"]:
    """Each frame sees itself and those before it: the visibility of a frame graph's memory, here noisy."""
    return FrameGraph.chunks(frames, chunk=1, conditioning_frames=0).visible(1)[:frames, :frames]


@dataclass(frozen=True)
class ARDiffusion(Method):
    """AR-Diffusion: between synchronous sampling and frame by frame."""

    lag: int = 5
    """Steps by which each frame is behind the one before it; 0 is synchronous, the number of steps frame by frame."""

    about = Neighbour(
        title="AR-Diffusion",
        paper="2503.07418 [C, S]",
        visibility="each frame attends to itself and earlier frames",
        timesteps="each frame is `lag` steps behind the previous one (AD); in training, never decreasing (FoPP)",
        positions="as in the model",
        frequencies="–",
        trained="the whole model, with noise levels drawn by FoPP and a loss on predicted clean frames",
        readings=("we know the authors' code and second-hand accounts", "`lag`: 5 is the authors' example"),
    )

    @staticmethod
    def draw(frames: int, levels: int, generator: torch.Generator | None = None) -> Int[Tensor, " frames"]:
        """The noise levels of a video in training."""
        return draw_monotone(frames, levels, generator)

    def sample(self, video: Video) -> Latents:
        """All rounds of the schedule."""
        steps = video.sampler.steps
        with FrameVisibility(causal).attach(video.backbone):
            return video.sampler.run(video.noise(), lagged(video.frames, steps, min(self.lag, steps)))
