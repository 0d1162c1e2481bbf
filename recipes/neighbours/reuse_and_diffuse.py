"""Reuse-and-Diffuse / VidRD (arXiv 2309.03549): a clip begins with the steps of the one before it, in reverse order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from memkit.generation import synchronous
from recipes.neighbours.neighbour import Method, Neighbour, at_most
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class ReuseAndDiffuse(Method):
    """Reuse-and-Diffuse: the extension, which is sampling alone."""

    clip: int = 5
    """Latent frames per clip; 16 for the authors, with an overlap of 4."""
    overlap: int = 2
    """Frames that are taken from the clip before during the first steps."""
    reuse: float = 4.0
    """r: weight of the reversed noise of the clip before, r/√(1 + r²), beside new noise, 1/√(1 + r²)."""
    guidance: float = 0.4
    """Share of the steps in which the first frame is taken over; less for later ones."""
    dropped: int = 1
    """First frames of a clip that are left out, as they repeat the last ones of the clip before."""

    about = Neighbour(
        title="Reuse-and-Diffuse",
        paper="2309.03549 [C]",
        visibility="all frames of a clip",
        timesteps="the same for all frames",
        positions="restart at 0 in each clip",
        frequencies="–",
        trained="",
        readings=("the value of `dropped`",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_most("overlap", self.overlap, self.clip)
        at_most("dropped", self.dropped, self.clip - 1)

    def sample(self, video: Video) -> Latents:
        """Clip after clip, each with the trajectory of the one before at hand."""
        sampler, steps, o, root = video.sampler, video.sampler.steps, self.overlap, math.sqrt(1 + self.reuse**2)
        held = [sum(i < (o - j) * steps / o * self.guidance for j in range(o)) for i in range(steps)]
        schedule, clips, before, at = synchronous(self.clip, steps), [], None, 0
        while at < video.frames:
            x, trail = video.noise(range(at, at + self.clip)), []
            if before is not None:  # the latents at each step, reversed in time
                x = torch.cat([before[0][:, :, :o], (self.reuse / root * before[0] + x / root)[:, :, o:]], 2)
            for i in range(steps):
                trail.append(x if before is None else torch.cat([before[i][:, :, : held[i]], x[:, :, held[i] :]], 2))
                x = sampler.run(trail[i], schedule[i : i + 2])
            clips.append(x[:, :, self.dropped if clips else 0 :])
            before, at = [each.flip(2) for each in trail], at + clips[-1].shape[2]
        return torch.cat(clips, 2)[:, :, : video.frames]
