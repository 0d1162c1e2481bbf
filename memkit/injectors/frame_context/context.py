"""`FrameContext`: frames of the past in the model's own sequence, seen in every layer.

Context frames stand before the frames P that are to be made; all attend to all, in every block, and only P comes out.
Three baselines of MemLearner (arXiv 2606.31734) are this with other frames:

    CaM          frames that a retriever chose, clean                        chunk(frames)
    DFoT         the newest frames; how far they lead is scaled              chunk(frames, history_guidance=1.5)
    FramePack    a long past, the older the fewer tokens a frame             packing=((1, 1), (2, 2), (16, 4))

The model is a stock Wan and its caller need not know: inside a chunk it takes the latents of P and gives their
velocity, so the stock pipelines run as they are, with text guidance and with known frames.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.unwrap import Attachable, wan_of, wans_of
from memkit.errors import InputError
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.frame_context.attachment import AttachedFrames
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.packing import Plan, fill_edges
from memkit.pretrained import Pretrained


class FrameContext(Pretrained, nn.Module):
    """Context frames in the sequence of a stock Wan; its own to train are the camera encoders and the packing.

        context = FrameContext(FrameContextConfig.of(pipe.transformer))
        with context.attach(pipe.transformer) as attached, attached.chunk(frames):
            latents = pipe(prompt, output_type="latent").frames

    The baselines train the backbone along: a text-to-video model was never shown clean frames among noisy ones.
    """

    config_class = FrameContextConfig

    def __init__(self, config: FrameContextConfig) -> None:
        super().__init__()
        self.config = config
        self.cameras = nn.ModuleDict({name: CameraEncoder(config.dim, config.blocks) for name in config.cameras})
        self.packers = nn.ModuleDict()
        depth, down, across = config.patch_size
        for scale in config.scales:
            size = (scale * depth, scale * down, scale * across)
            self.packers[str(scale)] = conv = nn.Conv3d(config.channels, config.dim, size, size)
            nn.init.zeros_(conv.weight)  # not of use yet, and attach() says so

    @torch.no_grad()
    def initialise(self, transformer: nn.Module) -> FrameContext:
        """Take the packing's convolutions over from the backbone's patch embedding; before training, once.

        Each weight is repeated over s×s×s latents of the larger window and divided by s³, the number of its copies
        (FramePack's way); the bias stays. So a packed token is, at first, what the patch embedding makes of the
        latents averaged over s frames, rows and columns, and a constant video gives the same token at every scale.

        Raises:
            InputError: a transformer of other sizes.
        """
        self._check(transformer)
        pretrained: Any = wan_of(transformer).patch_embedding
        for scale in self.config.scales:
            copies = pretrained.weight
            for dim in (2, 3, 4):
                copies = copies.repeat_interleave(scale, dim)
            conv: Any = self.packers[str(scale)]
            conv.weight.copy_(copies / scale**3)
            conv.bias.copy_(pretrained.bias)
        return self

    def attach(self, *models: Attachable) -> AttachedFrames:
        """Attach to each transformer, or each expert of a pipeline or backbone, until ``detach()`` or the end of the
        ``with``.

        Attached, a transformer runs inside `AttachedFrames.chunk` only. Gradient checkpointing, conditioning frames and
        memory tokens may be used along, in any order; keep ``backward`` inside this ``with``. ``torch.compile`` may
        not, nor what gives the frames positions of its own (caches, query layers, teacher forcing, camera positions).

        Raises:
            InputError: no transformer, one twice, not a Wan, of other sizes, or one that has frame context; or the
                packing was not initialised.
        """
        transformers = wans_of(models)
        for model in transformers:
            self._check(model)
        for scale, conv in self.packers.items():
            weight: Any = conv.weight
            if not weight.any():
                raise InputError(f"The packing at scale {scale} has no weights yet; call initialise(transformer) once.")
        return AttachedFrames(self, transformers, self.config, self.embed, self.cameras)

    def embed(
        self, latents: Float[Tensor, "batch channels kept height width"], plan: Plan, patch_embedding: nn.Module
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens of the plan's frames, group by group; edges that do not fill a patch of a scale are repeated."""
        parts = []
        for scale, frames in plan.runs():
            x = latents[:, :, frames]
            if self.config.packing:
                conv: Any = self.packers[str(scale)]
                made = conv(fill_edges(x.to(conv.weight.dtype), *conv.stride[1:]))
            else:
                made = patch_embedding.forward(x)  # past its hooks: one of them calls this
            parts.append(made.flatten(2).mT)
        return torch.cat(parts, dim=1)

    def _check(self, transformer: nn.Module) -> None:
        config, own = FrameContextConfig.of(transformer), self.config
        found = (config.dim, config.blocks, config.channels, config.patch_size)
        wanted = (own.dim, own.blocks, own.channels, own.patch_size)
        if found != wanted:
            raise InputError(
                f"The transformer has width, blocks, channels and patch size {found}, this frame context is for "
                f"{wanted}; make it with FrameContextConfig.of(transformer)."
            )
