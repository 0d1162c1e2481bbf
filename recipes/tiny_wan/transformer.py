"""Train the transformer and text encoder of tiny-wan on latents of the clips, then write the pipeline folder.

    python -m recipes.tiny_wan.transformer --data runs/tiny-wan/worlds --vae runs/tiny-wan/vae

The first stage (`recipes.tiny_wan.stages`) trains text-to-video on clips of laws only: when trained on all suites from
the start, the model still ignored the colour in the caption after 2000 steps. The next stages train on all suites, in
part with conditioning frames, which are clean and have timestep 0 (as in Wan2.2 TI2V), so that the model can continue
an image or a video. The last stages teach the gravity of each planet, which the model has not learned by then: twice,
it is trained on the same few falls alone, then on a mixture with all other clips while the learning rate decreases.

Takes about three hours on one core. A command that was stopped continues where it was. The pipeline gets the
exponential moving average of the weights.
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
from recipes.tiny_wan.model import TextAndVideo, flow_losses, write_pipeline
from recipes.tiny_wan.stages import TransformerConfig, schedule

RESUME_OVERRIDES = ("data", "vae", "out", "device", "threads", "workers", "save_every")
"""Settings that a resumed run may change."""


@dataclass
class Run:
    """The state of the training (model, its moving average, optimizer) and its data."""

    config: TransformerConfig
    model: TextAndVideo
    tokenizer: PreTrainedTokenizerFast
    latents: Tensor
    rows: list[dict]

    def __post_init__(self) -> None:
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = MuonAdam(self.model, self.config.muon_lr, self.config.adam_lr, _is_matrix)

    def state(self) -> dict:
        """The state to save in a checkpoint."""
        return {"model": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        """Restore what ``state`` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)

    def step(self, step: int) -> dict[str, float]:
        """Take one optimizer step, which depends on the state, the seed and ``step`` only. Returns the row to log."""
        config = self.config
        samples = batch(config, step, self.rows, self.tokenizer)
        x0 = self.latents[samples.index].float()
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + step))
        device = next(self.model.parameters()).device
        samples = Batch(samples.index, *(x.to(device) for x in samples[1:]))
        loss = flow_losses(config, self.model, x0.to(device), noise.to(device), samples)
        loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(schedule(config, step))
        rate = min(config.ema, (step + 1) / (step + 10))
        for name, value in self.model.state_dict().items():
            mean = self.average[name]
            mean.lerp_(value, 1 - rate) if value.is_floating_point() else mean.copy_(value)
        figures = {"loss": loss.mean().item(), **training.by_noise_level(loss.detach(), samples.sigma)}
        return {**figures, "norm": norm.item(), "conditioned": float(samples.conditioning_frames.any())}


def train(config: TransformerConfig) -> tuple[TextAndVideo, PreTrainedTokenizerFast]:
    """Train, or resume. Returns the model with its averaged weights, and the tokenizer."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    latents, rows = encode_clips(config), ClipSet(config.data).rows
    tokenizer = training.train_tokenizer([row["caption"] for row in rows])
    model = TextAndVideo(config, len(tokenizer)).to(training.pick_device(config.device))
    run = Run(config, model, tokenizer, latents, rows)
    settings = training.run_settings(config, RESUME_OVERRIDES, stages=config.recorded_stages)
    checkpoint, start = config.out / "checkpoint.pt", 0
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
    """Print the estimated cost of the steps from ``start`` on, measured with a copy of the model."""
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
