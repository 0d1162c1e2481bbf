"""DeT (arXiv 2503.17350): the motion of one source video, kept in convolutions over time beside the self-attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from memkit.flow import add_noise
from memkit.injectors import BlockLayers, TemporalLayer
from memkit.training.tracking import match_tracks, motion_loss
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class DeT(Method):
    """DeT: the layers, tuned on the video whose motion is kept: one that plain sampling has made."""

    blocks: int = 3
    """The first blocks, which have layers; 15 of 42 in the paper."""
    hidden: int = 128
    kernel: int = 3
    """In latent frames."""
    random: float = 0.0
    """Standard deviation of the last weights before they are tuned; at 0 the layers change nothing."""
    tuned: int = 0
    """Number of steps of tuning; 500 in the paper."""
    lr: float = 1e-5

    about = Neighbour(
        title="DeT",
        paper="2503.17350 [C]",
        visibility="all frames; in the first blocks also nearby frames at the same spatial position, by convolution",
        timesteps="the same for all frames",
        positions="as in the model",
        frequencies="a learned temporal filter",
        trained="the convolutions, on the source video; here for `tuned` steps, from last weights that are `random`",
        readings=("the most similar cells replace tracks", "`blocks`: the same share of the model as in CogVideoX-5B"),
    )

    def sample(self, video: Video) -> Latents:
        """Plain sampling with the layers attached."""
        torch.manual_seed(video.seed)
        source, sizes, sampler = video.plain(), video.sizes, replace(video.sampler, negative=None)
        numbers, tracks = range(min(self.blocks, sizes.layers)), match_tracks(source)
        layers = BlockLayers({i: TemporalLayer(sizes.width, self.hidden, self.kernel) for i in numbers})
        for layer in layers.to(source.device).layers.values():
            torch.nn.init.normal_(layer.get_parameter("up.weight"), std=self.random)
        optimizer = torch.optim.AdamW(layers.parameters(), self.lr)
        with layers.attach(video.backbone):
            for _ in range(self.tuned):
                level, noise = torch.randint(sampler.steps, (1,)), torch.randn_like(source)
                sigma = sampler.sigmas[level].to(source.device)
                with torch.enable_grad():
                    velocity = sampler.velocity(add_noise(source, noise, sigma), level.expand(source.shape[2]))
                    motion_loss(velocity, source, noise, sigma, tracks).backward(inputs=list(layers.parameters()))
                optimizer.step()
                optimizer.zero_grad()
            return video.plain()
