"""What every neighbour has in common: a row of the table, settings, and the video that it samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.generation import FrameSampler, frame_noise, synchronous

Latents = Float[Tensor, "1 channels frames height width"]


@dataclass(frozen=True)
class Neighbour:
    """A row of the table in docs/neighbours.md."""

    title: str
    paper: str
    """arXiv number."""
    visibility: str
    """Who sees whom."""
    timesteps: str
    """Which noise level each frame has."""
    positions: str
    frequencies: str
    trained: str
    """ "no", or what the authors train; here it runs without that training."""
    readings: tuple[str, ...] = ()
    """What our notes on the paper do not say, or say by inference alone: a setting by name, or what stands for what."""


@dataclass(frozen=True)
class Video:
    """A video to be sampled: the model with its text and noise levels, the number of latent frames, and the seed."""

    backbone: WanBackbone
    sampler: FrameSampler
    frames: int
    seed: int

    def noise(self, positions: range | None = None, kind: str = "noise") -> Latents:
        """Noise of the frames at ``positions``, by default of the video: the same for every method."""
        form, vae = self.backbone.video_format, self.backbone.pipeline().vae.config
        size = form.height // vae.scale_factor_spatial, form.width // vae.scale_factor_spatial
        shape = self.backbone.transformer.config.in_channels, *size
        at = range(self.frames) if positions is None else positions
        return frame_noise([self.seed], kind, at, shape).to(self.backbone.device)

    def generator(self) -> torch.Generator:
        """For what a method draws beside the noise."""
        return torch.Generator().manual_seed(self.seed)

    def plain(self, frames: int | None = None) -> Latents:
        """Plain sampling: all frames at once, from the same noise; or the first ones alone."""
        count = self.frames if frames is None else frames
        return self.sampler.run(self.noise(range(count)), synchronous(count, self.sampler.steps))


class Method(ABC):
    """The base of all neighbours, which are frozen dataclasses of their settings."""

    about: ClassVar[Neighbour]

    @abstractmethod
    def sample(self, video: Video) -> Latents:
        """The latents of the video, all frames. Raises `InputError` where the settings do not fit it."""
