"""Train the transformer and text encoder of tiny-wan on latents of the worlds, then write the pipeline folder.

    python -m recipes.tiny_wan.transformer --data runs/tiny-wan/worlds --vae runs/tiny-wan/vae --out
    runs/tiny-wan/transformer

The first stage (`STAGES`) sees `laws` alone, from text alone: on all suites at once, after 2000 steps the colour of a
body had nothing to do with the word for it. Then come all suites, and in a share of the steps the first latent frames
are clean and have timestep 0 (as in Wan2.2 TI2V), so the model goes on from an image or a video as well as from a text.
Last comes what the names of planets stand for, which the model has not learnt by then: twice some steps of falls alone,
the same few clips again and again, and a mixture of them with all others while the rate goes down.

About three hours on one core. Resumes by itself; the weights it writes are the exponential average.
"""

from __future__ import annotations

import copy
import json
import os
import random
from bisect import bisect_left
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from memkit.backbones.codec import FORMAT_FILE
from memkit.flow import NUM_TRAIN_TIMESTEPS, shift_sigma
from memkit.short_text import short_text
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES
from recipes.tiny_wan.captions import train_tokenizer, vary_caption
from recipes.tiny_wan.data import Clips
from recipes.tiny_wan.optim import MuonAdam
from recipes.tiny_wan.vae import to_model
from recipes.training import (
    Phase,
    RunLog,
    by_noise_level,
    identity,
    load_checkpoint,
    pick_device,
    save_checkpoint,
    tell_cost,
    timed,
)

MAY_CHANGE = ("data", "vae", "out", "device", "threads", "workers", "save_every")
"""Between a run and its resumption."""

FALLS = ("drop", "throw", "toss")
_CLIPS_A_FILE = 200


@dataclass(frozen=True)
class Stage:
    """A part of the training."""

    steps: int
    lr: tuple[float, float]
    """Share of the learning rates at its first and at its last step, linear between."""
    laws_alone: bool = False
    """Of the suites, or all of them."""
    falls: float = 0.0
    """Share of the places in a batch that hold a fall of `laws`, and any clip the others."""
    known: float = 0.3
    """Share of the steps in which first latent frames are known."""
    most_known: int = 3
    """From one to so many of them."""
    shift: float = 2.0
    """Of the noise levels: the larger, the more of them are high, where the course of a motion is decided."""


STAGES = (
    Stage(2000, (1.0, 1.0), laws_alone=True, known=0.0),
    Stage(1300, (1.0, 1.0)),
    Stage(2200, (1.0, 0.02)),
    # what the names of planets stand for
    Stage(1200, (0.7, 0.7), falls=1.0, known=0.0),
    Stage(300, (0.7, 0.7), falls=0.5),
    Stage(700, (0.7, 0.014), falls=0.5),
    # with the first frame known, a fall depends on little but gravity
    Stage(1500, (0.7, 0.7), falls=1.0, known=0.6, most_known=1, shift=4.0),
    Stage(900, (0.7, 0.014), falls=0.5, shift=3.0),
)


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and schedule."""

    data: Path = Path("runs/tiny-wan/worlds")
    vae: Path = Path("runs/tiny-wan/vae")
    out: Path = Path("runs/tiny-wan/transformer")
    heads: int = 4
    head_dim: int = 48
    ffn_dim: int = 768
    layers: int = 8
    text_dim: int = 128
    text_length: int = 40
    stages: tyro.conf.Suppress[tuple[Stage, ...]] = STAGES
    batch: int = 16
    muon_lr: float = 1e-2
    adam_lr: float = 1.5e-3
    warmup: int = 100
    shift: float = 2.0
    """Of the sampler, written into the pipeline."""
    drop_text: float = 0.1
    ema: float = 0.998
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    workers: int = 2
    save_every: int = 100

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)


class TextAndVideo(nn.Module):
    """What is trained together: text encoder and transformer."""

    def __init__(self, config: TransformerConfig, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=vocabulary,
                d_model=config.text_dim,
                d_kv=32,
                d_ff=256,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
                is_encoder_decoder=False,
            )
        )
        self.transformer = WanTransformer3DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            in_channels=16,
            out_channels=16,
            text_dim=config.text_dim,
            ffn_dim=config.ffn_dim,
            num_layers=config.layers,
        )

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Velocity; text as the pipeline gives it: encoded, then zeros where there is no token."""
        text = self.text_encoder(tokens, mask).last_hidden_state * mask[..., None]
        text = torch.cat([text, text.new_zeros(text.shape[0], 1, text.shape[2])], dim=1)
        return self.transformer(latents, timestep, text, return_dict=False)[0]


def encode_clips(config: TransformerConfig) -> Tensor:
    """Normalised latents of all clips [clips,16,5,8,8] in fp16; kept in ``latents/`` beside the autoencoder."""
    folder = config.vae / "latents"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i:05d}.pt" for i in range(0, len(Clips(config.data)), _CLIPS_A_FILE)]
    missing = [file for file in files if not file.exists()]
    if missing:
        torch.set_num_threads(1)
        with ProcessPoolExecutor(config.workers) as pool:
            list(tqdm(pool.map(_encode, missing, repeat(config)), total=len(missing), desc="latents"))
    return torch.cat([torch.load(file, weights_only=True) for file in files])


@torch.no_grad()
def _encode(file: Path, config: TransformerConfig) -> None:
    vae = AutoencoderKLWan.from_pretrained(config.vae).eval()
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    clips, first = Clips(config.data), int(file.stem)
    out = []
    for i in range(first, min(first + _CLIPS_A_FILE, len(clips)), 4):
        video = to_model([clips[j] for j in range(i, min(i + 4, first + _CLIPS_A_FILE, len(clips)))])
        out.append(((vae.encode(video).latent_dist.mode() - mean) / std).half())
    torch.save(torch.cat(out), file.with_suffix(".partial"))
    os.replace(file.with_suffix(".partial"), file)


def schedule(config: TransformerConfig, step: int) -> float:
    """Share of the learning rates: a warm-up, then as the stages say."""
    stage, past = stage_of(config, step)
    first, last = stage.lr
    return min(1.0, (step + 1) / config.warmup) * (first + (last - first) * past / stage.steps)


def stage_of(config: TransformerConfig, step: int) -> tuple[Stage, int]:
    """The stage of a step, and how many steps of it went before."""
    for stage in config.stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError(f"The stages end {step} steps before.")


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


def frame_sigmas(sigma: Tensor, known: Tensor, frames: int) -> Tensor:
    """Noise level of each latent frame [B, T]: 0 for the known ones."""
    return sigma[:, None] * (torch.arange(frames, device=known.device) >= known[:, None])


def loss_of(config: TransformerConfig, model: TextAndVideo, x0: Tensor, noise: Tensor, drawn: Batch) -> Tensor:
    """Flow-matching loss of each sample [B], over the frames that are not known."""
    levels = frame_sigmas(drawn.sigma, drawn.known, x0.shape[2])
    grid = levels[:, None, :, None, None]
    latents = (1 - grid) * x0 + grid * noise
    timestep = drawn.sigma * NUM_TRAIN_TIMESTEPS
    if drawn.known.any():
        timestep = (levels * NUM_TRAIN_TIMESTEPS).repeat_interleave(x0[0, 0, 0].numel() // 4, dim=1)
    with short_text(model.transformer, config.text_length):
        predicted = model(latents, timestep, drawn.tokens, drawn.mask)
    error = (predicted - (noise - x0)).pow(2).mean(dim=(1, 3, 4))
    unknown = (torch.arange(x0.shape[2], device=x0.device) >= drawn.known[:, None]).float()
    return (error * unknown).sum(1) / unknown.sum(1)


@dataclass
class Run:
    """What a step changes (model, its average, the optimizer's state) and what it learns from."""

    config: TransformerConfig
    model: TextAndVideo
    tokenizer: PreTrainedTokenizerFast
    latents: Tensor
    rows: list[dict]

    def __post_init__(self) -> None:
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = MuonAdam(self.model, self.config.muon_lr, self.config.adam_lr, _is_matrix)

    def state(self) -> dict:
        """For a checkpoint."""
        return {"model": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        """The inverse of ``state``."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)

    def step(self, step: int) -> dict[str, float]:
        """One update, a function of the weights, the seed and the step alone; what there is to log."""
        config = self.config
        drawn = batch(config, step, self.rows, self.tokenizer)
        x0 = self.latents[drawn.index].float()
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + step))
        device = next(self.model.parameters()).device
        drawn = Batch(drawn.index, *(x.to(device) for x in drawn[1:]))
        loss = loss_of(config, self.model, x0.to(device), noise.to(device), drawn)
        loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(schedule(config, step))
        rate = min(config.ema, (step + 1) / (step + 10))
        for name, value in self.model.state_dict().items():
            mean = self.average[name]
            mean.lerp_(value, 1 - rate) if value.is_floating_point() else mean.copy_(value)
        figures = {"loss": loss.mean().item(), **by_noise_level(loss.detach(), drawn.sigma), "norm": norm.item()}
        return {**figures, "known": float(drawn.known.any())}


def train(config: TransformerConfig) -> tuple[TextAndVideo, PreTrainedTokenizerFast]:
    """Train, or resume; returns the averaged model."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    latents, rows = encode_clips(config), Clips(config.data).rows
    tokenizer = train_tokenizer([row["caption"] for row in rows])
    model = TextAndVideo(config, len(tokenizer)).to(pick_device(config.device))
    run = Run(config, model, tokenizer, latents, rows)
    checkpoint, start, about = config.out / "checkpoint.pt", 0, identity(config, MAY_CHANGE)
    if state := load_checkpoint(checkpoint, about):
        run.load(state)
        start = state["step"]
    if start < config.steps:
        tell(run, start)
    log = RunLog(config.out, "transformer", start, config.steps)
    for step in range(start, config.steps):
        figures = run.step(step)
        log.step({"step": step, **figures} if step % 10 == 0 else None)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_checkpoint({**run.state(), "step": step + 1}, checkpoint, about)
    log.close()
    run.model.load_state_dict(run.average)
    return run.model.cpu(), tokenizer


def tell(run: Run, start: int) -> None:
    """Say what the steps from ``start`` on will cost, from a step of a copy."""
    other = Run(run.config, copy.deepcopy(run.model), run.tokenizer, run.latents, run.rows)
    seconds = timed(lambda: other.step(start))
    weights = sum(p.numel() for p in run.model.parameters()) * 4
    # a checkpoint is the weights, their average and up to two moments; two lie there while one replaces the other
    tell_cost("transformer", [Phase("all", run.config.steps - start, seconds)], 8 * weights, run.config.out)


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and ("blocks." in name or "block." in name) and "relative" not in name


def write_pipeline(config: TransformerConfig, model: TextAndVideo, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Assemble the stock pipeline and save it; transformer and autoencoder in fp16, the small text encoder in fp32."""
    tokenizer.backend_tokenizer.no_padding()  # training has left its own length there
    tokenizer.backend_tokenizer.no_truncation()
    pipe = WanPipeline(
        tokenizer=tokenizer,  # type: ignore[arg-type]  # WanPipeline names AutoTokenizer, which nothing is an instance of
        text_encoder=model.text_encoder,
        vae=AutoencoderKLWan.from_pretrained(config.vae).half(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift),
        transformer=copy.deepcopy(model.transformer).half(),
    )
    folder = config.out / "pipeline"
    pipe.vae.register_to_config(_name_or_path="tiny-wan")  # not the folder it happens to come from
    pipe.save_pretrained(folder)
    video_format = {"num_frames": NUM_FRAMES, "height": IMAGE_SIZE, "width": IMAGE_SIZE, "fps": FPS}
    (folder / FORMAT_FILE).write_text(json.dumps(video_format) + "\n")
    return folder


if __name__ == "__main__":
    settings = tyro.cli(TransformerConfig)
    print(write_pipeline(settings, *train(settings)))
