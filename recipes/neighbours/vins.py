"""VINs (arXiv 2503.17539): global tokens, read anew from the noisy video at each step, guide chunks run in parallel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memkit.encoders import GlobalTokens, GlobalTokensConfig
from memkit.generation import overlapping_velocity, synchronous
from memkit.injectors import SelfAttentionConcat
from recipes.neighbours.neighbour import Method, Neighbour
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class VINs(Method):
    """VINs: chunks of a long video at one timestep, with global tokens and an overlap."""

    chunk: int = 5
    overlap: int = 2
    """Frames of the chunk before that a chunk sees too; 12 beside chunks of 20 in the paper."""
    tokens: int = 64
    every: int = 2
    """The tokens read every so many latent frames: those that are 1.0 s apart."""
    averaged: float = 0.6
    """Share of the steps, from the noisiest on, in which overlapping predictions are averaged, with linear weights."""
    gate: float = 0.0
    """Before its tanh, of the untrained tokens in attention; at 0 they change nothing."""

    about = Neighbour(
        title="VINs",
        paper="2503.17539 [A, S]",
        visibility="a chunk: itself, `overlap` frames of the previous one, and global tokens of the whole video",
        timesteps="the same for all frames",
        positions="restart at 0 in each chunk",
        frequencies="–",
        trained="the encoder of the global tokens and the transformer; here the tokens are random and their gate is 0",
        readings=("all second-hand", "`gate`: global tokens have a separate softmax", "positions start at 0"),
    )

    @torch.no_grad()
    def sample(self, video: Video) -> Latents:
        """Each step with new tokens, chunk by chunk."""
        sampler, sizes = video.sampler, video.sizes
        own = sizes.width, sampler.text.shape[2], sizes.channels, sizes.layers, sizes.heads
        config = GlobalTokensConfig(self.tokens, 4, sizes.heads, *own)
        torch.manual_seed(video.seed)
        encoder = GlobalTokens(config).to(video.backbone.device).eval()
        torch.nn.init.constant_(encoder.gate.weight, self.gate)
        x, text, schedule = video.noise(), sampler.text.float(), synchronous(video.frames, sampler.steps)
        for i, (before, after) in enumerate(zip(schedule, schedule[1:], strict=False)):
            memory, early = encoder(x[:, :, :: self.every], text), i < self.averaged * sampler.steps
            with SelfAttentionConcat(memory).attach(video.backbone):
                velocity = overlapping_velocity(sampler, x, before, self.chunk, self.overlap, early)
            x = sampler.move(x, velocity, before, after)
        return x
