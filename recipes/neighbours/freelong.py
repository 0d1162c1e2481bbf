"""FreeLong (arXiv 2407.19918): low frequencies of attention to all frames, high ones of attention to near frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memkit.encoders import LowPass
from memkit.generation import synchronous
from memkit.injectors import FrameVisibility, FrequencyBlend, sliding_window
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class FreeLong(Method):
    """FreeLong, training-free: a video longer than the model's own, in one pass."""

    alpha: int = 2
    """Latent frames to either side that attention in the window sees; the authors' 8 is a window of the model's length,
    as 2 is for tiny-wan."""
    cutoff_time: float = 0.25
    """Standard deviation of the gaussian low-pass over time, as a share of the highest frequency."""
    cutoff_space: float = 0.25
    """The same over height and width."""
    blended: float = 0.5
    """Share of the steps, from the noisiest on, with a blend; the rest has attention in the window alone."""

    about = Neighbour(
        title="FreeLong",
        paper="2407.19918 [P, C]",
        visibility="all frames, and a sliding window of 2·alpha + 1 frames",
        timesteps="the same for all frames",
        positions="as in the model, continued beyond its training length",
        frequencies="low frequencies from attention to all frames, high ones from attention within the window",
        trained="",
        readings=(
            "the authors blend temporal attention; Wan attends over space and time jointly, so the window is in frames",
            "`blended`: half of the steps in the paper, all in its code, except at the U-Net's finest resolution",
            "`alpha`: a window has 2·alpha + 1 frames; the authors' windows have 2·alpha at the ends of the video",
        ),
    )

    @property
    def low(self) -> LowPass:
        """exp(−½·((f_t/d_t)² + (f_h/d_s)² + (f_w/d_s)²)), of frequencies as shares of the highest one, 0.5 per cell."""
        half_gain = 0.5 * math.sqrt(2 * math.log(2))
        return LowPass(half_gain * self.cutoff_time, half_gain * self.cutoff_space, "gaussian")

    def sample(self, video: Video) -> Latents:
        """Blended steps, then steps in the window."""
        window = sliding_window(2 * self.alpha + 1)
        schedule = synchronous(video.frames, video.sampler.steps)
        steps = round(self.blended * video.sampler.steps)
        with FrequencyBlend(window, self.low).attach(video.backbone):
            x = video.sampler.run(video.noise(), schedule[: steps + 1])
        with FrameVisibility(window).attach(video.backbone):
            return video.sampler.run(x, schedule[steps:])
