"""ARLON (arXiv 2410.20502): a coarse plan of the whole video steers each block by an adaptive norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, interpolate

from memkit.injectors import BlockLayer, BlockLayers
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


class PlanNorm(BlockLayer):
    """Scale and shift of each token, from the cell of the plan at its place and time."""

    def __init__(self, width: int, channels: int, random: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(channels, 2 * width, bias=False)
        nn.init.normal_(self.modulation.weight, std=random)

    def enter(self, hidden: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulation(context).chunk(2, -1)
        return hidden * (1 + scale) + shift


@dataclass(frozen=True)
class ARLON(Method):
    """ARLON: the diffusion model's part; the plan is of a video that plain sampling has made."""

    pooled: int = 4
    """Latent rows and columns per cell of the plan; the authors' codes are 4×8×8 times coarser."""
    uncertainty: float = 0.1
    """Standard deviation of noise in the plan, which teaches the model to bear wrong plans."""
    random: float = 0.0
    """Standard deviation of the last weights, which the authors train; at 0 the plan changes nothing."""

    about = Neighbour(
        title="ARLON",
        paper="2410.20502 [A, S]",
        visibility="all frames; each token also receives the cell of a coarse plan at its position and time",
        timesteps="the same for all frames",
        positions="as in the model",
        frequencies="low spatial frequencies come from the plan",
        trained="a transformer that generates the plan, and norms; here the norms' last weights are `random`",
        readings=("second-hand, except the abstract", "pooled latents replace the plan", "`uncertainty`"),
    )

    def sample(self, video: Video) -> Latents:
        """Plain sampling once for the plan, and once more with it."""
        torch.manual_seed(video.seed)
        plain, sizes = video.plain(), video.sizes
        grid = [n // p for n, p in zip(plain.shape[2:], sizes.patch_size, strict=True)]
        plan = avg_pool3d(plain, (1, self.pooled, self.pooled), ceil_mode=True)
        plan = interpolate(plan + self.uncertainty * torch.randn_like(plan), grid).flatten(3).permute(0, 2, 3, 1)
        layers = {i: PlanNorm(sizes.width, sizes.channels, self.random) for i in range(sizes.layers)}
        with BlockLayers(layers, plan).to(plain.device).attach(video.backbone):
            return video.plain()
