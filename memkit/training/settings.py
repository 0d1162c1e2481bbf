"""Settings that the recipes share, by what they are for. A recipe adds its own, some with other defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from memkit.training.limits import CheckedSettings

Tracker = Literal["none", "trackio", "wandb", "tensorboard"]


@dataclass(frozen=True)
class RunSettings(CheckedSettings):
    """Settings of every command of a run."""

    model: str = "tiny"
    """The backbone: "tiny", a diffusers folder, or a hub id."""
    out: Path = Path("runs")
    """Folder of the run: banks, weights, log, results."""
    banks: Path | None = None
    """Folder of the banks, where several runs share them; by default OUT."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of computation. Weights that are trained are kept in fp32 while they are."""
    device: str = "auto"
    """"auto" is CUDA if it is available."""
    threads: int = 0
    """CPU threads; 0 leaves the number to torch."""
    seed: int = 42
    """Seed of training, generation and evaluation."""

    @property
    def folder(self) -> Path:
        """Folder of the banks."""
        return self.banks or self.out


@dataclass(frozen=True)
class TrainSettings:
    """Settings of training."""

    steps: int = 10_000
    """Optimizer steps in all; schedules depend on it, so a resumed run keeps it."""
    batch: int = 1
    """Samples per process and forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward and backward passes per optimizer step."""
    lr: float = 1e-5
    """Learning rate of AdamW, which has no weight decay."""
    warmup: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up; the cosine ends at 5 %."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    shift: float = 5.0
    """Shift s of the noise levels in training: σ = s·u / (1 + (s−1)·u)."""
    drop_text: float = 0.1
    """Probability of an empty prompt, which text guidance needs."""
    text_length: int = 512
    """Text tokens in training. The pipeline's padding beyond is one key with a log-weight: the same, but cheaper."""
    checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them."""
    shard: bool = False
    """Spread the backbone's weights over the processes (FSDP2), and gradients and moments where it is trained, for a
    model that does not fit on one device."""
    tracker: Tracker = "none"
    """Experiment tracker that gets the log besides log.jsonl."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between rows of the log."""


@dataclass(frozen=True)
class SampleSettings:
    """Settings of generation."""

    sampling_steps: int = 50
    """Steps of the sampler."""
    guidance_scale: float = 5.0
    """Scale of text guidance; 1 is none."""


@dataclass(frozen=True)
class DataSettings:
    """Settings of what ``prepare`` renders if no videos are given; a recipe adds them all."""


@dataclass(frozen=True)
class Settings(RunSettings, TrainSettings, SampleSettings, DataSettings):
    """All settings that the recipes share."""


RESUME_OVERRIDES = {"out", "banks", "device", "threads", "shard", "tracker", "save_every", "log_every"}
RESUME_OVERRIDES |= {"sampling_steps", "guidance_scale"}
RESUME_OVERRIDES |= {"gradient_accumulation_steps"}  # processes times this must stay what it was
"""Settings that a resumed run of any recipe may change; the others would make it another run."""
