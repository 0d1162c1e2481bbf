"""The batches of the transformer's training: latents of the clips, captions, noise levels, conditioning frames."""

from __future__ import annotations

import gc
import random
from bisect import bisect_left
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from memkit.errors import InputError
from memkit.files.tensors import read_torch
from memkit.flow import shift_sigma
from memkit.training import save_torch
from memkit.worlds.captions import vary_caption
from memkit.worlds.clip_set import ClipSet
from recipes.tiny_wan.stages import FALLS, Stage, TransformerConfig, stage_of
from recipes.tiny_wan.vae import to_model

_CLIPS_PER_FILE = 200


def encode_clips(config: TransformerConfig) -> Tensor:
    """Normalised latents of all clips [clips,16,5,8,8] in fp16; kept in ``latents/`` beside the autoencoder."""
    if not (config.vae / "config.json").exists():
        raise InputError(f"There is no trained autoencoder in {config.vae}; run recipes.tiny_wan.vae first.")
    folder = config.vae / "latents"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i:05d}.pt" for i in range(0, len(ClipSet(config.data)), _CLIPS_PER_FILE)]
    missing = [file for file in files if not file.exists()]
    if missing:
        torch.set_num_threads(1)
        with ProcessPoolExecutor(config.workers, initializer=gc.freeze) as pool:
            list(tqdm(pool.map(_encode, missing, repeat(config)), total=len(missing), desc="latents"))
    return torch.cat([_read(file) for file in files])


def _read(file: Path) -> Tensor:
    latents = read_torch(file, remedy := "remove it to encode its clips again")
    if not isinstance(latents, Tensor) or latents.ndim != 5:
        raise InputError(f"{file} holds no latents of clips; {remedy}.")
    return latents


@torch.no_grad()
def _encode(file: Path, config: TransformerConfig) -> None:
    vae = AutoencoderKLWan.from_pretrained(config.vae).eval()
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    clips, first = ClipSet(config.data), int(file.stem)
    out = []
    for i in range(first, min(first + _CLIPS_PER_FILE, len(clips)), 4):
        video = to_model([clips[j] for j in range(i, min(i + 4, first + _CLIPS_PER_FILE, len(clips)))])
        out.append(((vae.encode(video).latent_dist.mode() - mean) / std).half())
    save_torch(torch.cat(out), file)


class Batch(NamedTuple):
    """The samples of one training step."""

    index: list[int]
    """Indices of the clips."""
    tokens: Tensor
    """Text tokens [B, L]."""
    mask: Tensor
    """Attention mask of the tokens [B, L]."""
    sigma: Tensor
    """Noise levels [B]."""
    conditioning_frames: Tensor
    """Number of conditioning frames, in latent frames [B]."""


def batch(config: TransformerConfig, step: int, rows: list[dict], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """The batch of a step. It depends on the seed and the step only."""
    rng = random.Random(f"{config.seed}/{step}")
    stage, _ = stage_of(config, step)
    index = draw_clips(config, stage, rows, rng)
    captions = ["" if rng.random() < config.drop_text else vary_caption(rows[i]["parts"], rng) for i in index]
    text = tokenizer(
        captions, padding="max_length", truncation=True, max_length=config.text_length, return_tensors="pt"
    )
    # one noise level per stratum of equal size: less variance than independent draws
    u = torch.tensor([(i + rng.random()) / config.batch for i in range(config.batch)])
    conditioned = stage.conditioning_prob > 0 and rng.random() < stage.conditioning_prob
    counts = [rng.randint(1, stage.max_conditioning_frames) if conditioned else 0 for _ in range(config.batch)]
    return Batch(index, text.input_ids, text.attention_mask, shift_sigma(u, stage.shift), torch.tensor(counts))


def draw_clips(config: TransformerConfig, stage: Stage, rows: list[dict], rng: random.Random) -> list[int]:
    """Draw the indices of a step's clips. In ``rows``, the clips of laws come first."""
    laws = bisect_left(rows, 1, key=lambda row: not row["id"].startswith("laws/"))
    if not stage.falls:
        count = laws if stage.laws_alone else len(rows)
        return [rng.randrange(count) for _ in range(config.batch)]
    falls = [i for i in range(laws) if rows[i]["kind"] in FALLS]
    return [rng.choice(falls if rng.random() < stage.falls else range(len(rows))) for _ in range(config.batch)]
