"""Train the transformer and text encoder of tiny-wan on latents of the worlds, then write the pipeline folder.

    python -m recipes.tiny_wan.transformer --data runs/tiny-wan/worlds --vae runs/tiny-wan/vae --out
    runs/tiny-wan/transformer

The first stage (`recipes.tiny_wan.stages`) sees `laws` alone, from text alone: on all suites at once, after 2000 steps
the colour of a body had nothing to do with the word for it. Then come all suites, and in a share of the steps the first
latent frames are clean and have timestep 0 (as in Wan2.2 TI2V), so the model goes on from an image or a video as well
as from a text.
Last comes what the names of planets stand for, which the model has not learnt by then: twice some steps of falls alone,
the same few clips again and again, and a mixture of them with all others while the rate goes down.

About three hours on one core. Resumes by itself; the weights it writes are the exponential average.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from memkit import training
from memkit.training.muon import MuonAdam
from memkit.worlds.clip_set import ClipSet
from recipes.tiny_wan.batches import Batch, batch, encode_clips
from recipes.tiny_wan.captions import train_tokenizer
from recipes.tiny_wan.model import TextAndVideo, loss_of, write_pipeline
from recipes.tiny_wan.stages import TransformerConfig, schedule

RESUME_OVERRIDES = ("data", "vae", "out", "device", "threads", "workers", "save_every")
"""Between a run and its resumption."""


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
        figures = {"loss": loss.mean().item(), **training.by_noise_level(loss.detach(), drawn.sigma)}
        return {**figures, "norm": norm.item(), "known": float(drawn.known.any())}


def train(config: TransformerConfig) -> tuple[TextAndVideo, PreTrainedTokenizerFast]:
    """Train, or resume; returns the averaged model."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    latents, rows = encode_clips(config), ClipSet(config.data).rows
    tokenizer = train_tokenizer([row["caption"] for row in rows])
    model = TextAndVideo(config, len(tokenizer)).to(training.pick_device(config.device))
    run = Run(config, model, tokenizer, latents, rows)
    checkpoint, start, settings = config.out / "checkpoint.pt", 0, training.run_settings(config, RESUME_OVERRIDES)
    if state := training.load_checkpoint(checkpoint, settings):
        with training.restoring(checkpoint):
            run.load(state)
        start = state["step"]
    if start < config.steps:
        report_cost(run, start)
    log = training.RunLog(config.out, "transformer", start, config.steps)
    for step in range(start, config.steps):
        figures = run.step(step)
        log.step({"step": step, **figures} if step % 10 == 0 else None)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            training.save_checkpoint({**run.state(), "step": step + 1}, checkpoint, settings)
    log.close()
    run.model.load_state_dict(run.average)
    return run.model.cpu(), tokenizer


def report_cost(run: Run, start: int) -> None:
    """Print what the steps from ``start`` on will cost, measured with a copy of the model."""
    other = Run(run.config, copy.deepcopy(run.model), run.tokenizer, run.latents, run.rows)
    seconds = training.timed(lambda: other.step(start))
    weights = sum(p.numel() for p in run.model.parameters()) * 4
    # a checkpoint is the weights, their average and up to two moments; two lie there while one replaces the other
    phases = [training.Phase("all", run.config.steps - start, seconds)]
    training.estimate_cost("transformer", phases, 8 * weights, run.config.out)


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and ("blocks." in name or "block." in name) and "relative" not in name


if __name__ == "__main__":
    settings = tyro.cli(TransformerConfig)
    training.run_command(lambda: print(write_pipeline(settings, *train(settings))))
