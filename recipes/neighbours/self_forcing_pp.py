"""Self-Forcing++ (arXiv 2510.02283): a long rollout with a rolling cache, of which windows are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from memkit.flow import add_noise
from memkit.streaming import STREAM_PRESETS, Stream
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


class TrainingWindow(NamedTuple):
    """What teacher and student are compared on: a window of a rollout, noised anew."""

    start: int
    noisy: Latents
    noise: Latents
    sigma: Tensor


@dataclass(frozen=True)
class SelfForcingPlusPlus(Method):
    """Self-Forcing++: the rollout, and the windows of its training; the loss (DMD, GRPO) is outside of memory."""

    chunk: int = 1
    """Latent frames per chunk; 3 in the paper."""
    window: int = 5
    """Latent frames that a chunk attends to, its own included, in training too; 21 in the paper, without a sink."""

    about = Neighbour(
        title="Self-Forcing++",
        paper="2510.02283 [P, S]",
        visibility="a chunk: itself and the newest cached frames, `window` frames in total",
        timesteps="0 for cached frames, a common one for the chunk, out of four (1000, 750, 500, 250 before the shift)",
        positions="as in the model, growing without bound",
        frequencies="–",
        trained="a four-step student, by distribution matching on windows of its own long rollouts",
        readings=("`window` includes the chunk itself, as in Self-Forcing", "a shift of 5, as in Self-Forcing"),
    )

    def sample(self, video: Video) -> Latents:
        """The rollout."""
        config = replace(STREAM_PRESETS["self-forcing"](), chunk=self.chunk, window=self.window)
        config = replace(config, text_length=video.text_length)
        stream = Stream(video.backbone, [video.seed], config=config)
        chunks = [stream.generate([video.prompt]) for _ in range(0, video.frames, self.chunk)]
        return torch.cat(chunks, 2)[:, :, : video.frames]

    def training_window(self, rollout: Latents, sigma: Tensor, generator: torch.Generator) -> TrainingWindow:
        """A window of ``window`` frames, drawn uniformly, at noise level σ [B]: x_t = (1 − σ)·x₀ + σ·ε."""
        start = int(torch.randint(rollout.shape[2] - self.window + 1, (), generator=generator))
        clean = rollout[:, :, start : start + self.window]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return TrainingWindow(start, add_noise(clean, noise, sigma), noise, sigma)
