"""Wan pipelines of stock classes with random weights: the layout of the real thing at a size that tests can run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from memkit.training import train_tokenizer
from recipes.tiny_wan.vae import build

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "ffn_dim": 64,
    "num_layers": 3,
}


def random_transformer(seed: int = 0, **changes: object) -> WanTransformer3DModel:
    """A stock transformer of width 48 and 3 layers; ``changes`` replace entries of SMALL."""
    torch.manual_seed(seed)
    return WanTransformer3DModel(**{**SMALL, **changes}).eval()


def random_pipeline(seed: int = 0, boundary_ratio: float | None = None, expand_timesteps: bool = False) -> WanPipeline:
    """A whole pipeline: 8× in space and 4× in time, 16 latent channels; two experts if ``boundary_ratio`` is given."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["a red ball falls", "a blue cube bounces on planet Arda"])
    text_config = UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text_config).eval(),
        vae=build(base_dim=8).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        transformer=random_transformer(seed),
        transformer_2=None if boundary_ratio is None else random_transformer(seed + 1),
        boundary_ratio=boundary_ratio,
        expand_timesteps=expand_timesteps,
    )


def write_random_pipeline(folder: Path, seed: int = 0) -> Path:
    """`random_pipeline` saved, with a video format of 9 frames of 32×32 at 8 a second."""
    random_pipeline(seed).save_pretrained(folder)
    video_format = {"num_frames": 9, "height": 32, "width": 32, "fps": 8.0}
    (folder / "video_format.json").write_text(json.dumps(video_format))
    return folder
