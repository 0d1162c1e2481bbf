"""What the package ships: weights that a stock pipeline loads, and a red ball that falls."""

import random

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from memkit import WanBackbone
from memkit.backbones.codec import tiny_folder
from memkit.generation import generate_videos
from memkit.metrics import mean_psnr, psnr
from memkit.video import to_model
from memkit.worlds import sample_law
from memkit.worlds.constants import MATERIALS, PLANETS, SUBSTANCES


def test_tiny_wan_is_a_small_stock_pipeline():
    assert sum(f.stat().st_size for f in tiny_folder().rglob("*") if f.is_file()) <= 25e6
    assert (tiny_folder() / "README.md").exists()
    pipe = WanPipeline.from_pretrained(tiny_folder())
    assert type(pipe.transformer) is WanTransformer3DModel
    assert type(pipe.vae) is AutoencoderKLWan
    assert type(pipe.text_encoder) is UMT5EncoderModel
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        assert next(part.parameters()).dtype == torch.float32  # stored in 16 bits, computed in 32


def test_a_red_ball_is_seen_falling():
    pipe = WanBackbone.tiny().pipeline()
    pipe.set_progress_bar_config(disable=True)
    seeds = range(4)
    videos = pipe(
        ["a large red rubber ball falls in a lab"] * len(seeds),
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=12,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).frames
    red = (videos[:, :, 0] - videos[:, :, 1:].amax(2) > 0.25).float()  # [seeds, frames, height, width]
    assert (red.sum((2, 3)) > 20).float().mean() > 0.9  # it is there
    rows = (red.sum(3) * torch.arange(64)).sum(2) / red.sum((2, 3)).clamp(min=1)
    fallen = rows.amax(1) - rows[:, 0]
    assert (fallen > 10).sum() >= 3  # of 64 rows, in three of the four at least


@pytest.mark.parametrize("constants", [PLANETS, MATERIALS, SUBSTANCES])
def test_only_names_it_was_trained_on_are_words_to_it(constants):
    tokenize = WanPipeline.from_pretrained(tiny_folder(), vae=None, transformer=None).tokenizer.tokenize
    assert all(len(tokenize(name)) == 1 for name in constants["train"])
    assert all(len(tokenize(name)) > 1 for split in ("memory", "test") for name in constants[split])


def test_a_video_from_an_image_keeps_the_image():
    backbone = WanBackbone.tiny()
    backbone.pipeline().set_progress_bar_config(disable=True)
    events = [sample_law(random.Random(seed), "test") for seed in range(4)]
    first = [event.video(num_frames=1) for event in events]
    with torch.no_grad():
        first_latents = torch.cat([backbone.encode_video(to_model(frame)) for frame in first])
    videos = generate_videos(
        backbone,
        [event.caption for event in events],
        seeds=range(4),
        steps=8,
        guidance_scale=3.0,
        conditioning_latents=first_latents,
    )
    kept = [mean_psnr(psnr(video[:1], frame)) for video, frame in zip(videos, first, strict=True)]
    assert sum(kept) / 4 >= 25  # dB
    assert all((video[0] != video[-1]).any() for video in videos)
