"""The model of a run: its autoencoder alone, or the pipeline, to generate with or to train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import nn

from memkit.backbones.codec import WanCodec, tiny_folder
from memkit.backbones.model_folder import find_pipeline, load_pipeline, load_transformer
from memkit.backbones.wan import WanBackbone
from memkit.banks.bank import MemoryBank
from memkit.errors import InputError, nearest
from memkit.files.checksums import verify_sums
from memkit.hub import shipped_folder, shipped_names
from memkit.training.launch import shard as shard_weights
from memkit.training.loop import pick_device
from memkit.training.settings import RunSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_codec(settings: RunSettings) -> WanCodec:
    """The VAE of a run's model, on the device of this process among those of a launch."""
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    set_threads(settings)
    codec = WanCodec.from_pretrained(model_of(settings))
    vae: Any = codec.vae
    vae.to(pick_device(settings.device))
    return codec


def load_backbone(
    settings: RunSettings, device: torch.device | None = None, trained: Path | None = None, *, shard: bool = False
) -> WanBackbone:
    """The frozen pipeline in the run's dtype, on ``device`` or the configured one.

    With ``trained`` the transformer is the one that a training command has saved in ``trained/transformer``; raises
    `InputError` if there is none, or if the model has two experts. ``shard`` spreads the transformers over the
    processes, from the CPU.
    """
    device = device or pick_device(settings.device)
    backbone = _load(settings, None if trained is None else _transformer(trained, DTYPES[settings.dtype]))
    for transformer in backbone.transformers if shard else ():
        shard_weights(transformer, transformer)
    pipe = backbone.pipeline()
    for part in (pipe.vae, pipe.text_encoder) if shard else (pipe,):
        part.to(device)
    return backbone


def load_trainable(
    settings: RunSettings, device: torch.device, sharded: bool, start: Path | None = None
) -> WanBackbone:
    """The pipeline with a transformer in fp32 that takes gradients, from the folder of a run ``start`` if it is given.

    Only what training uses is moved to ``device``: the text encoder, in the run's dtype, and the transformer unless it
    is to be ``sharded``, which moves it block by block. Raises `InputError` if the model has two experts.
    """
    backbone = _load(settings, _transformer(start or model_of(settings), torch.float32))
    backbone.transformer.requires_grad_(True)
    backbone.pipeline().text_encoder.to(device)
    if not sharded:
        nn.Module.to(backbone.transformer, device)
    return backbone


def _load(settings: RunSettings, transformer: WanTransformer3DModel | None) -> WanBackbone:
    """The pipeline on the CPU, frozen and in eval mode, with its own transformer or this one."""
    set_threads(settings)
    codec = WanCodec.from_pretrained(model_of(settings))
    parts = {"vae": codec.vae} | ({} if transformer is None else {"transformer": transformer})
    pipe = load_pipeline(find_pipeline(model_of(settings)), DTYPES[settings.dtype], video_format=None, **parts)
    if transformer is not None and pipe.transformer_2 is not None:
        raise InputError(f"{settings.model} has two experts; this recipe trains one transformer, whole.")
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return WanBackbone.from_pipeline(pipe, codec.video_format)


def _transformer(folder: Path | str, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer of a run or of a pipeline; `FileError` where a folder of it is damaged."""
    part = (folder if isinstance(folder, Path) else find_pipeline(folder)) / "transformer"  # a string may be a hub id
    if not (part / "config.json").exists():
        raise InputError(f"There is no trained transformer in {folder}; run this recipe's train first.")
    verify_sums(part)
    return load_transformer(part, dtype)


def find_trained(out: Path, weights: str | None, shipped: str) -> Path:
    """The folder with the trained parts of a run: ``out`` itself, or with ``weights`` the folder, or else the weights
    that memkit ships, of that name.

    Raises `InputError` where there are none; it names ``shipped``, the weights that memkit has for the recipe.
    """
    folder = out if weights is None else Path(weights)
    if weights is not None and not folder.is_dir() and (known := shipped_folder(weights)) is not None:
        folder = known
        print(f"The weights are {weights}, which memkit ships.")
    if (folder / "transformer" / "config.json").exists():
        return folder
    near = "" if weights is None else nearest(weights, shipped_names())
    ready = f", or give --weights {shipped}, which memkit ships" if shipped_folder(shipped) else ""
    raise InputError(f"There is no trained transformer in {folder}; run this recipe's train first{ready}.{near}")


def open_bank(path: Path, prepare: str) -> MemoryBank:
    """The bank of a run. Raises `InputError` that names the command to ``prepare`` it where there is none."""
    if not (path / "bank.json").exists():
        raise InputError(f"There is no bank {path}; run {prepare} first.")
    return MemoryBank.open(path)


def set_threads(settings: RunSettings) -> None:
    """CPU threads of torch, if the settings say how many."""
    if settings.threads:
        torch.set_num_threads(settings.threads)


def model_of(settings: RunSettings) -> Path | str:
    """Folder or hub id."""
    return tiny_folder() if settings.model == "tiny" else settings.model
