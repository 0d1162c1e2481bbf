"""What the package ships: weights that a stock pipeline loads, and a red ball that falls."""

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from memkit import WanBackbone
from memkit.backbones.codec import tiny_folder


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
        ["a large red rubber ball falls and bounces in a lab"] * len(seeds),
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
