"""ART-V (arXiv 2311.18834): frame by frame, after the newest frames and the first one, parts of which are copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.streaming import Stream, StreamConfig
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class ARTV(Method):
    """ART-V: a stream of single frames, each with the first frame as an anchor."""

    previous: int = 2
    """Newest frames that a frame sees, beside the first."""
    copied: float = 0.0
    """Bias of the untrained mask, in [0, 1]: the share of the frame before that is copied rather than predicted."""

    about = Neighbour(
        title="ART-V",
        paper="2311.18834 [A]",
        visibility="a frame: itself, the `previous` clean frames before it, and the first frame",
        timesteps="0 for the clean frames, a common one for the frame being generated",
        positions="as in the model",
        frequencies="–",
        trained="the whole model, and a network that masks what is copied; here the mask is `copied` everywhere",
        readings=(
            "only the abstract was read: `previous` and the whole mask network are guesses",
            "clean frames are attended to as cached keys and values",
        ),
    )

    def sample(self, video: Video) -> Latents:
        """One chunk of a stream per frame; a hook mixes each prediction with the frame before."""
        window, of = self.previous + 2, video.sampler
        options = {"steps": of.steps, "guidance_scale": of.guidance_scale, "text_length": video.text_length}
        config = StreamConfig(chunk=1, shift=None, window=window, sink=1, **options)
        stream, frames = Stream(video.backbone, [video.seed], config=config), []
        mask = nn.Conv3d(2 * video.sizes.channels, 1, 3, padding=1).to(video.backbone.device)
        for parameter, start in zip(mask.parameters(), (0.0, self.copied), strict=True):
            nn.init.constant_(parameter, start)

        def copy(model: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor]:
            x, sigma = args[0], args[1].view(-1, 1, 1, 1, 1) / NUM_TRAIN_TIMESTEPS
            change = (x - sigma * output[0] - frames[-1]) / sigma.clamp(min=1e-6)  # from the prediction to the copy
            return (output[0] + mask(torch.cat([x, frames[-1]], 1)).clamp(0, 1) * change,)

        for _ in range(video.frames):
            handle = video.backbone.transformer.register_forward_hook(copy) if frames else None
            frames.append(stream.generate([video.prompt]))
            if handle is not None:
                handle.remove()
        return torch.cat(frames, 2)
