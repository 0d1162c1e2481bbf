"""The settings of the transformer's training, and its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from memkit.training import CheckedSettings

FALLS = ("drop", "throw", "toss")


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
class TransformerConfig(CheckedSettings):
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
