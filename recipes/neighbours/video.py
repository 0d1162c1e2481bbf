"""`Video`: what a neighbour samples, and plain sampling from the same noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones import Sizes, WanBackbone, adapter_of
from memkit.generation import FrameSampler, frame_noise, synchronous
from memkit.injectors import KVCache, frame_bytes
from memkit.streaming.budget import latent_size

Latents = Float[Tensor, "1 channels frames height width"]


@dataclass(frozen=True)
class Video:
    """A video to be sampled: the model with its text and noise levels, the number of latent frames, and the seed."""

    backbone: WanBackbone
    prompt: str
    frames: int
    seed: int
    sampler: FrameSampler
    text_length: int

    @classmethod
    def of(
        cls,
        backbone: WanBackbone,
        prompt: str,
        frames: int,
        *,
        seed: int = 0,
        steps: int = 20,
        guidance_scale: float = 5.0,
        text_length: int = 32,
    ) -> Video:
        """A video from a prompt of at most ``text_length`` tokens; sample it inside `short_texts` of this length."""
        sampler = FrameSampler.of(
            backbone, [prompt], steps=steps, guidance_scale=guidance_scale, text_length=text_length
        )
        return cls(backbone, prompt, frames, seed, sampler, text_length)

    def noise(self, positions: range | None = None, kind: str = "noise") -> Latents:
        """Noise of the frames at ``positions``, by default of the video: the same for every method."""
        shape = self.backbone.transformer.config.in_channels, *latent_size(self.backbone)
        at = range(self.frames) if positions is None else positions
        return frame_noise([self.seed], kind, at, shape).to(self.backbone.device)

    @property
    def sizes(self) -> Sizes:
        """Sizes of the transformer."""
        return adapter_of(self.backbone.transformer).sizes(self.backbone.transformer)

    @property
    def branches(self) -> tuple[str, ...]:
        """Those that a `KVCache` needs: one per pass of the guidance."""
        return ("cond",) if self.sampler.negative is None else ("cond", "uncond")

    def cache(self, frames: int) -> KVCache:
        """A cache for so many latent frames."""
        one = frame_bytes(self.backbone.transformer, *latent_size(self.backbone))
        return KVCache(frames * one * len(self.branches), self.branches)

    def generator(self) -> torch.Generator:
        """For what a method draws beside the noise."""
        return torch.Generator().manual_seed(self.seed)

    def plain(self, frames: int | None = None) -> Latents:
        """Plain sampling: all frames at once, from the same noise; or the first ones alone."""
        count = self.frames if frames is None else frames
        return self.sampler.run(self.noise(range(count)), synchronous(count, self.sampler.steps))
