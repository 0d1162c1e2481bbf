"""FIFO-Diffusion (arXiv 2405.11473): a queue of frames at rising noise levels, whose head leaves at each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memkit.errors import InputError
from memkit.generation import staircase
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class FIFO(Method):
    """FIFO-Diffusion, training-free: videos of any length in constant memory."""

    window: int = 4
    """Latent frames per call of the model. The queue has one frame per step."""
    lookahead: bool = True
    """Whether a call updates only the noisier half of its frames, with the cleaner half as context."""

    about = Neighbour(
        title="FIFO-Diffusion",
        paper="2405.11473 [C]",
        visibility="the frames of a window of the queue; with lookahead, half of the window is context",
        timesteps="each frame is one step noisier than the previous one, from the head of the queue to its tail",
        positions="0 to window − 1 in each call",
        frequencies="–",
        trained="",
        readings=(
            "positions start at 0 in each call",
            "Euler steps; the authors use DDIM with eta = 1",
            "frames that leave the queue before the last copy of the first clip's first frame are discarded",
        ),
    )

    def sample(self, video: Video) -> Latents:
        """A plain clip of one window fills the queue, noised to its levels; a video of one window is that clip."""
        f, steps, sampler = self.window, video.sampler.steps, video.sampler
        context = f // 2 if self.lookahead else 0
        if steps < f or steps % (f - context):
            raise InputError(f"{steps} steps do not divide into windows of {f} frames, {context} of them context.")
        if video.frames <= f:
            return video.plain()
        clip, taken = video.plain(f), staircase(steps, 1, steps)
        sigma = sampler.sigmas[taken][:, None, None].to(clip)
        copied = torch.arange(steps).sub(steps - f).clamp(min=0)
        queue = (1 - sigma) * clip[:, :, copied] + sigma * video.noise(range(steps), "queue")
        levels, out = torch.cat([torch.full((context,), steps), taken]), []
        for k in range(steps - f + video.frames):
            x, new = torch.cat([*[queue[:, :, :1]] * context, queue], 2), []  # copies of the head are its context
            for start in range(0, steps, f - context):
                after = (at := levels[start : start + f]) + (torch.arange(f) >= context)
                new.append(sampler.run(x[:, :, start : start + f], torch.stack([at, after]))[:, :, context:])
            head, *rest = torch.cat(new, 2).split(1, 2)
            out.append(head)
            queue = torch.cat([*rest, video.noise(range(f + k, f + k + 1))], 2)
        return torch.cat(out[steps - f :], 2)
