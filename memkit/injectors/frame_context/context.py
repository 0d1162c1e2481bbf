"""`FrameContext`: past frames in the model's own token sequence.

Context frames are placed before the frames P that are to be generated. All tokens attend to all tokens in every block,
and only P is returned. Three baselines of MemLearner (arXiv 2606.31734) differ only in their context:

    CaM          clean frames, selected by a retriever                       chunk(frames)
    DFoT         the newest frames, with history guidance                    chunk(frames, history_guidance=1.5)
    FramePack    many frames, with fewer tokens per frame for older ones     packing=((1, 1), (2, 2), (16, 4))

The model is a stock Wan with its usual interface: inside a chunk, it takes the latents of P and returns their velocity.
So the stock pipelines work unchanged, with classifier-free guidance and with conditioning frames.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.backbones.base import FRAME_CONTEXT
from memkit.backbones.unwrap import Attachable, transformer_of, transformers_of
from memkit.errors import InputError
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.frame_context.attachment import AttachedFrames
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.packing import Plan, fill_edges
from memkit.pretrained import Pretrained


class FrameContext(Pretrained, nn.Module):
    """Context frames in the token sequence of a stock Wan; its parameters are camera encoders and packing convolutions.

        context = FrameContext(FrameContextConfig.of(pipe.transformer))
        with context.attach(pipe.transformer) as attached, attached.chunk(frames):
            latents = pipe(prompt, output_type="latent").frames

    The baselines also train the backbone: a text-to-video model has never seen clean frames beside noisy ones.
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
            nn.init.zeros_(conv.weight)  # attach() refuses these until initialise() was called

    @torch.no_grad()
    def initialise(self, transformer: nn.Module) -> FrameContext:
        """Initialise the packing convolutions from the backbone's patch embedding; call it once, before training.

        As in FramePack, each weight is repeated over s×s×s latents of the larger window and divided by s³, the number
        of copies; the bias is copied. So a packed token is initially the patch embedding of the latents averaged over
        s frames, rows and columns, and a constant video gives the same token at every scale.

        Raises:
            InputError: the transformer has other sizes than the config.
        """
        self._check(transformer)
        pretrained: Any = transformer_of(transformer).patch_embedding
        for scale in self.config.scales:
            copies = pretrained.weight
            for dim in (2, 3, 4):
                copies = copies.repeat_interleave(scale, dim)
            conv: Any = self.packers[str(scale)]
            conv.weight.copy_(copies / scale**3)
            conv.bias.copy_(pretrained.bias)
        return self

    def attach(self, *models: Attachable) -> AttachedFrames:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        While attached, a transformer runs only inside `AttachedFrames.chunk`. It can be combined with gradient
        checkpointing, conditioning frames and memory tokens, attached in any order; call ``backward`` inside the
        ``with`` statement. It cannot be combined with ``torch.compile``, nor with attachments that set positions (KV
        caches, query layers, teacher forcing, camera positions).

        Raises:
            InputError: no transformer is given, one is repeated, cannot have frame context, has other sizes or already
                has frame context; or the packing was not initialised.
        """
        transformers = transformers_of(models, FRAME_CONTEXT)
        for model in transformers:
            self._check(model)
        for scale, conv in self.packers.items():
            weight: Any = conv.weight
            if not weight.any():
                raise InputError(
                    f"The packing at scale {scale} has no weights yet; call initialise(transformer) before training."
                )
        return AttachedFrames(self, transformers, self.config, self.embed, self.cameras)

    def embed(
        self, latents: Float[Tensor, "batch channels kept height width"], plan: Plan, patch_embedding: nn.Module
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens of the plan's frames, group by group; frames are padded at their edges to whole patches."""
        parts = []
        for scale, frames in plan.runs():
            x = latents[:, :, frames]
            if self.config.packing:
                conv: Any = self.packers[str(scale)]
                tokens = conv(fill_edges(x.to(conv.weight.dtype), *conv.stride[1:]))
            else:
                tokens = patch_embedding.forward(x)  # without its hooks, one of which calls this method
            parts.append(tokens.flatten(2).mT)
        return torch.cat(parts, dim=1)

    def _check(self, transformer: nn.Module) -> None:
        actual, expected = (
            (config.dim, config.blocks, config.channels, config.patch_size)
            for config in (FrameContextConfig.of(transformer), self.config)
        )
        if actual != expected:
            raise InputError(
                f"The transformer has width, blocks, channels and patch size {actual}, this frame context is for "
                f"{expected}; create it with FrameContextConfig.of(transformer)."
            )
