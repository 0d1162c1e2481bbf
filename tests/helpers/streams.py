"""Small streams: a random Wan with short texts, and settings that run fast."""

import torch

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.injectors import (
    frame_bytes,
)
from memkit.positions import PMRoPE, PMRoPEConfig
from memkit.streaming import Stream, StreamConfig

TOKENS = 4  # of a latent frame of 4×4
TIGHT = {"rtol": 0, "atol": 1e-5}
FAST = StreamConfig(chunk=2, steps=2, guidance_scale=1.0)
GUIDED = StreamConfig(chunk=2, steps=1, guidance_scale=3.0)
PROMPTS = ["a red ball falls", "a blue cube bounces"]


class Short(WanBackbone):
    """With short texts: most of the time of a model this small is spent on reading 512 words."""

    def encode_text(self, prompts, max_sequence_length=8):
        return super().encode_text(prompts, max_sequence_length)


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def budget(backbone, frames=40, branches=2, batch=2):
    return frames * branches * sum(frame_bytes(model, 4, 4, batch) for model in backbone.transformers)


def stream(backbone, config=FAST, frames=40, seeds=(1, 2), **more):
    branches = 1 if config.guidance_scale == 1 else 2
    return Stream(backbone, seeds, budget(backbone, frames, branches, len(seeds)), config, size=(4, 4), **more)


def trained(backbone):
    pm = PMRoPE(PMRoPEConfig.of(backbone.transformer))
    for i, parameter in enumerate(pm.parameters()):
        parameter.data = 0.15 * seeded(*parameter.shape, seed=20 + i)
    return pm


def cameras(frames, batch=1):
    q = torch.linalg.qr(seeded(batch, frames, 3, 3, seed=3)).Q
    c2w = torch.eye(4).repeat(batch, frames, 1, 1)
    c2w[..., :3, :3] = q * torch.linalg.det(q)[..., None, None]
    c2w[..., :3, 3] = 3 * seeded(batch, frames, 3, seed=4)
    return Cameras(c2w, torch.full((batch, frames, 4), 0.7))
