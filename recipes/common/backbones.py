"""The model of a run: its autoencoder alone to prepare banks, or whole, to be trained with all of its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.backbones import WanBackbone, WanCodec
from memkit.backbones.codec import tiny_folder
from memkit.errors import InputError
from recipes.common.training import pick_device


def load_codec(model: str, device: str, threads: int) -> WanCodec:
    """The VAE of "tiny", a folder or a hub id, on the device of this process among those of a launch."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if threads:
        torch.set_num_threads(threads)
    codec = WanCodec.from_pretrained(tiny_folder() if model == "tiny" else model)
    vae: Any = codec.vae
    vae.to(pick_device(device))
    return codec


def load_whole(
    model: str,
    threads: int,
    device: torch.device,
    folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> WanBackbone:
    """The pipeline, of which the transformer takes gradients; from ``folder/transformer`` if one is given.

    Raises `InputError` for two experts, or where there is no trained transformer.
    """
    if threads:
        torch.set_num_threads(threads)
    backbone = WanBackbone.tiny(dtype) if model == "tiny" else WanBackbone.from_pretrained(model, dtype)
    if backbone.transformer_2 is not None:
        raise InputError(f"{model} has two experts; this recipe trains one transformer, whole.")
    pipe = backbone.pipeline()
    if folder is not None:
        if not (folder / "transformer" / "config.json").exists():
            raise InputError(f"There is no trained transformer in {folder}; run this recipe's train first.")
        pipe.transformer = WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=dtype)
        backbone = WanBackbone.from_pipeline(pipe, backbone.video_format)
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.text_encoder, pipe.vae, pipe.transformer):
        part.requires_grad_(part is pipe.transformer).eval()
    return backbone
