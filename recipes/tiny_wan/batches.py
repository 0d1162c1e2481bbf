"""What a step of the transformer's training sees: latents of the worlds, and what is drawn of them."""

from __future__ import annotations

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

_CLIPS_A_FILE = 200


def encode_clips(config: TransformerConfig) -> Tensor:
    """Normalised latents of all clips [clips,16,5,8,8] in fp16; kept in ``latents/`` beside the autoencoder."""
    folder = config.vae / "latents"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i:05d}.pt" for i in range(0, len(ClipSet(config.data)), _CLIPS_A_FILE)]
    missing = [file for file in files if not file.exists()]
    if missing:
        torch.set_num_threads(1)
        with ProcessPoolExecutor(config.workers) as pool:
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
    for i in range(first, min(first + _CLIPS_A_FILE, len(clips)), 4):
        video = to_model([clips[j] for j in range(i, min(i + 4, first + _CLIPS_A_FILE, len(clips)))])
        out.append(((vae.encode(video).latent_dist.mode() - mean) / std).half())
    save_torch(torch.cat(out), file)


class Batch(NamedTuple):
    """Clip indices, text tokens, noise levels and how many first latent frames are known, of one step."""

    index: list[int]
    tokens: Tensor
    mask: Tensor
    sigma: Tensor
    known: Tensor


def batch(config: TransformerConfig, step: int, rows: list[dict], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """The batch of a step; a function of the seed and the step alone."""
    rng = random.Random(f"{config.seed}/{step}")
    stage, _ = stage_of(config, step)
    index = pick(config, stage, rows, rng)
    captions = ["" if rng.random() < config.drop_text else vary_caption(rows[i]["parts"], rng) for i in index]
    text = tokenizer(
        captions, padding="max_length", truncation=True, max_length=config.text_length, return_tensors="pt"
    )
    # one noise level in each of `batch` equal strata: less variance than independent draws
    u = torch.tensor([(i + rng.random()) / config.batch for i in range(config.batch)])
    some = stage.known > 0 and rng.random() < stage.known
    known = torch.tensor([rng.randint(1, stage.most_known) if some else 0 for _ in range(config.batch)])
    return Batch(index, text.input_ids, text.attention_mask, shift_sigma(u, stage.shift), known)


def pick(config: TransformerConfig, stage: Stage, rows: list[dict], rng: random.Random) -> list[int]:
    """The clips of a step; of ``rows`` laws come first."""
    laws = bisect_left(rows, 1, key=lambda row: not row["id"].startswith("laws/"))
    if not stage.falls:
        some = laws if stage.laws_alone else len(rows)
        return [rng.randrange(some) for _ in range(config.batch)]
    falls = [i for i in range(laws) if rows[i]["kind"] in FALLS]
    return [rng.choice(falls if rng.random() < stage.falls else range(len(rows))) for _ in range(config.batch)]
