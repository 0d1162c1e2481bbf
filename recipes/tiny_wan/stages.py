"""The settings of the transformer's training, and its stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from memkit.training import CheckedSettings

FALLS = ("drop", "throw", "toss")


@dataclass(frozen=True)
class Stage:
    """One stage of the training."""

    steps: int
    """Number of optimizer steps."""
    lr: tuple[float, float]
    """Learning-rate multiplier at the first and at the last step, linear in between."""
    laws_alone: bool = False
    """Train on clips of laws only, instead of all suites."""
    falls: float = 0.0
    """Probability that a sample is drawn from the falls among the laws, instead of from all clips."""
    conditioning_prob: float = 0.3
    """Probability that the samples of a step have conditioning frames."""
    max_conditioning_frames: int = 3
    """Largest number of conditioning frames per sample, in latent frames; it is drawn uniformly from 1."""
    shift: float = 2.0
    """Shift of the noise levels. A larger one trains more on high noise levels, which decide the course of a motion."""


STAGES = (
    Stage(2000, (1.0, 1.0), laws_alone=True, conditioning_prob=0.0),
    Stage(1300, (1.0, 1.0)),
    Stage(2200, (1.0, 0.02)),
    # these teach the gravity that the name of a planet stands for
    Stage(1200, (0.7, 0.7), falls=1.0, conditioning_prob=0.0),
    Stage(300, (0.7, 0.7), falls=0.5),
    Stage(700, (0.7, 0.014), falls=0.5),
    # given the first frame, a fall depends on little but gravity
    Stage(1500, (0.7, 0.7), falls=1.0, conditioning_prob=0.6, max_conditioning_frames=1, shift=4.0),
    Stage(900, (0.7, 0.014), falls=0.5, shift=3.0),
)


@dataclass(frozen=True)
class TransformerConfig(CheckedSettings):
    """Sizes and schedule. Training is on the clips in ``data``, encoded with the autoencoder in ``vae``."""

    data: Path = Path("runs/tiny-wan/worlds")
    vae: Path = Path("runs/tiny-wan/vae")
    out: Path = Path("runs/tiny-wan/transformer")
    heads: int = 4
    head_dim: int = 48
    ffn_dim: int = 768
    layers: int = 8
    text_dim: int = 128
    text_length: int = 40
    """Number of text tokens in training."""
    stages: tyro.conf.Suppress[tuple[Stage, ...]] = STAGES
    batch: int = 16
    muon_lr: float = 1e-2
    adam_lr: float = 1.5e-3
    warmup: int = 100
    shift: float = 2.0
    """Shift of the pipeline's scheduler."""
    drop_text: float = 0.1
    """Probability of an empty caption, which classifier-free guidance needs."""
    ema: float = 0.998
    """Decay of the exponential moving average of the weights."""
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    workers: int = 2
    save_every: int = 100

    @property
    def steps(self) -> int:
        """Number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def recorded_stages(self) -> list[dict[str, Any]]:
        """The stages under the names of their settings in checkpoints."""
        names = {"conditioning_prob": "known", "max_conditioning_frames": "most_known"}
        return [{names.get(name, name): value for name, value in asdict(stage).items()} for stage in self.stages]


def schedule(config: TransformerConfig, step: int) -> float:
    """Learning-rate multiplier of a step: a linear warm-up, then that of the stages."""
    stage, past = stage_of(config, step)
    first, last = stage.lr
    return min(1.0, (step + 1) / config.warmup) * (first + (last - first) * past / stage.steps)


def stage_of(config: TransformerConfig, step: int) -> tuple[Stage, int]:
    """The stage of a step, and the number of the step within it. Raises `IndexError` after the last stage."""
    for stage in config.stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError(f"The last stage ended {step} steps earlier.")
