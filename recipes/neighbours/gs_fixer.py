"""GSFixer (arXiv 2508.09667): every block looks at features of a clip's first and last frame by cross-attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate, pixel_unshuffle

from memkit.injectors import BlockLayers, ControlBranch, ControlBranchConfig, ReferenceAttention
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class GSFixer(Method):
    """GSFixer: the references, of a video that plain sampling has made."""

    references: bool = True
    blurred: int = 4
    """Latent rows and columns that are averaged in the control video, as an artifact; 0 for no control video."""
    random: float = 0.0
    """Standard deviation of the last weights, which the authors train; at 0 the layers change nothing."""

    about = Neighbour(
        title="GSFixer",
        paper="2508.09667 [C, S]",
        visibility="all frames; in each block also patches of two reference frames, by cross-attention",
        timesteps="the same for all frames",
        positions="as in the model; references have none",
        frequencies="–",
        trained="the cross-attention and the model, on renderings with artifacts; here the last weights are `random`",
        readings=(
            "patches of latents and pixels replace the authors' features, which come from DINOv2-L and VGGT",
            "a control branch reads the video with artifacts, which is replaced by a blurred plain sample",
        ),
    )

    def sample(self, video: Video) -> Latents:
        """Sample once more with the first and last frame of the plain video as references."""
        torch.manual_seed(video.seed)
        plain, sizes, model, size = video.plain(), video.sizes, video.backbone.transformer, self.blurred
        pixels, patch = video.backbone.decode_latents(plain), sizes.patch_size[1]
        context = [_ends(plain, patch), _ends(pixels, patch * pixels.shape[3] // plain.shape[3])]
        widths = [x.shape[2] for x in context]
        layers = {i: ReferenceAttention(sizes.width, sizes.heads, widths) for i in range(sizes.layers)}
        for layer in layers.values():
            torch.nn.init.normal_(layer.to_out.weight, std=self.random)
        branch = ControlBranch(ControlBranchConfig.of(model, sizes.channels)).initialise(model).to(plain.device)
        for block in branch.blocks.values():
            torch.nn.init.normal_(block.get_parameter("proj_out.weight"), std=self.random if size else 0.0)
        control = interpolate(avg_pool3d(plain, (1, size, size), ceil_mode=True), plain.shape[2:]) if size else plain
        look = BlockLayers(layers, context if self.references else ()).to(plain.device)
        with look.attach(video.backbone), branch.attach(video.backbone) as on, on.chunk(control):
            return video.plain()


def _ends(x: Tensor, patch: int) -> Tensor:  # patches of the first and the last frame, as tokens [1, M, D]
    return pixel_unshuffle(x[0, :, [0, -1]].transpose(0, 1), patch).flatten(2).mT.flatten(0, 1)[None]
