"""A tiny random Wan, and videos to be sampled from it by the neighbours of the papers."""

from __future__ import annotations

from functools import cache

from memkit.backbones import VideoFormat, WanBackbone
from recipes.neighbours.video import Video
from tests.helpers.random_wan import random_pipeline


@cache
def backbone() -> WanBackbone:
    """Width 48, latents of 2×2 patches; what a frame sees matters as much as what it is, unlike at random weights."""
    pipe = random_pipeline()
    for block in pipe.transformer.blocks:
        block.attn1.to_v.weight.data *= 10
        block.scale_shift_table.data[:, 2] += 1  # the gate of the self-attention
    return WanBackbone.from_pipeline(pipe, VideoFormat(9, 32, 32, 8.0))


@cache
def video(frames: int, steps: int = 4, guidance_scale: float = 2.0) -> Video:
    options = {"steps": steps, "guidance_scale": guidance_scale, "text_length": 16}
    return Video.of(backbone(), "a red ball falls", frames, seed=3, **options)
