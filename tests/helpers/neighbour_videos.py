"""A tiny random Wan, and videos to be sampled from it by the neighbours of the papers."""

from __future__ import annotations

from functools import cache


from memkit.backbones import VideoFormat, WanBackbone
from memkit.generation import FrameSampler
from recipes.neighbours.neighbour import Video
from tests.helpers.random_wan import random_pipeline


@cache
def backbone() -> WanBackbone:
    """Width 48, latents of 2×2 patches."""
    return WanBackbone.from_pipeline(random_pipeline(), VideoFormat(9, 32, 32, 8.0))


@cache
def sampler(steps: int = 4, guidance_scale: float = 2.0) -> FrameSampler:
    return FrameSampler.of(backbone(), ["a red ball falls"], steps=steps, guidance_scale=guidance_scale, text_length=16)


def video(frames: int, steps: int = 4, guidance_scale: float = 2.0) -> Video:
    return Video(backbone(), sampler(steps, guidance_scale), frames, seed=3)
