"""DeT (arXiv 2503.17350): the motion of one source video, kept in convolutions over time beside the self-attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from memkit.injectors import BlockLayer, BlockLayers
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


class TemporalLayer(BlockLayer):
    """Two convolutions over time, of the input of the self-attention; the result is added to its output."""

    def __init__(self, width: int, hidden: int, kernel: int, random: float) -> None:
        super().__init__()
        self.down = nn.Conv1d(width, hidden, kernel, padding="same")
        self.up = nn.Conv1d(hidden, width, kernel, padding="same")
        for parameter, std in zip(self.up.parameters(), (random, 0.0), strict=True):
            nn.init.normal_(parameter, std=std)

    def leave(self, hidden: Tensor, out: Tensor, context: None) -> Tensor:
        x = hidden.permute(0, 2, 3, 1).flatten(0, 1)
        return out + self.up(gelu(self.down(x))).unflatten(0, (len(out), -1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class DeT(Method):
    """DeT: the layers; they are tuned for 500 steps on the video whose motion is kept."""

    blocks: int = 3
    """The first blocks, which have layers; 15 of 42 in the paper."""
    hidden: int = 128
    kernel: int = 3
    """In latent frames."""
    random: float = 0.0
    """Standard deviation of the last weights, which are tuned; at 0 the layers change nothing."""

    about = Neighbour(
        title="DeT",
        paper="2503.17350 [C]",
        visibility="all frames; in the first blocks also nearby frames at the same spatial position, by convolution",
        timesteps="the same for all frames",
        positions="as in the model",
        frequencies="a learned temporal filter",
        trained="the convolutions, on the source video; here their last weights are `random`",
        readings=("there is no tracking loss", "`blocks`: the same share of the model as in CogVideoX-5B"),
    )

    def sample(self, video: Video) -> Latents:
        """Plain sampling with the layers attached."""
        torch.manual_seed(video.seed)
        count = min(self.blocks, video.sizes.layers)
        layers = {i: TemporalLayer(video.sizes.width, self.hidden, self.kernel, self.random) for i in range(count)}
        with BlockLayers(layers).to(video.backbone.device).attach(video.backbone):
            return video.plain()
