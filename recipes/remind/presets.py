"""The settings of the recipe, and the presets.

A preset is a function that returns the whole configuration; each field can be replaced on the command line. The paper
publishes neither rates nor schedules, so every default below that is not a size of a model is our reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from memkit.backbones import VideoFormat
from memkit.errors import InputError
from memkit.training import SAMPLES, CheckedSettings, DataSettings, SampleSettings, Settings, TrainSettings, parse_with

CameraMode = Literal["off", "phase", "full"]
STRIDE = 4  # video frames of a latent frame but the first, in every Wan


@dataclass(frozen=True)
class Training(TrainSettings):
    """Training, with the curriculum; 0 (of --frontier: no) switches a part of it off."""

    frontier: bool = True
    """Frontier continuation: the first n chunks are given, n drawn anew in each step; else
    --conditioning-frames latents are."""
    node_drop: float = 0.3
    """Probability that a chunk is hidden from all later ones."""
    node_drop_degraded: float = 0.6
    """The same of chunks that show no truth; with --node-drop 0 it is 0 too."""
    noisy_memory: float = 0.5
    """Largest noise level σ of remembered chunks."""
    reference: float = 0.2
    """Probability that a step sees clean references 40 to 48 latents back, and nothing between."""
    undisturbed_prob: float = 0.25
    """Probability that a step is on undisturbed clips with all of their past, against forgetting."""
    anchor: bool = True
    """The last clean chunk before an interruption is an anchor: never hidden, never noised."""
    conditioning_frames: int = 1
    """Latent frames given at the start of a clip if no frontier is drawn: 1 is image-to-video."""
    camera_lr: float = 5e-5
    """Learning rate of PM-RoPE's parameters."""
    warmup: int = 200
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up; the cosine ends at 5 %."""


@dataclass(frozen=True)
class Sampling(SampleSettings):
    """Generation."""

    sampling_steps: int = 50
    """Steps of the sampler in each chunk."""
    guidance_scale: float = 3.0
    """Scale of text guidance; 1 is none."""
    cache_frames: int | None = None
    """Latent frames that the cache has room for; None: all of the video."""


@dataclass(frozen=True)
class Data(DataSettings):
    """Clips of the interruptions world."""

    train_clips: int = 480
    """Clips to train on."""
    test_clips: int = 60
    """Clips with substances that nothing was trained on; a fifth of them behind fog, which no training clip has."""


@dataclass(frozen=True)
class Config(Training, Sampling, Data, Settings):
    """All settings."""

    out: Path = Path("runs/remind-tiny")
    """Folder of the run: banks, weights, log, results."""

    # -- clips
    frames: int = 81
    """Video frames of a clip, 4·n + 1: n + 1 latent frames."""
    height: int = 480
    width: int = 832
    fps: float = 16.0
    chunk: int = 3
    """Latent frames of a chunk; what is over goes into the first: 21 are 7·3, 13 are 1 + 4·3."""

    # -- the model and its sampler
    cameras: CameraMode = "phase"
    """PM-RoPE: off, a camera phase of queries and keys, or that and the terms of values and output."""
    shift: float = 5.0
    """Shift s of the noise levels, in training and in the sampler: σ = s·u / (1 + (s−1)·u)."""
    text_length: int = 512
    """Text tokens in training and streaming. The pipeline's padding beyond is one key with a log-weight: the same, but
    cheaper."""

    @property
    def form(self) -> VideoFormat:
        """Frames, size and rate of the clips."""
        return VideoFormat(self.frames, self.height, self.width, self.fps)

    @property
    def latents(self) -> int:
        """Latent frames of a clip. Raises `InputError` for a number of frames that no VAE of Wan takes."""
        if self.frames < 1 or (self.frames - 1) % STRIDE:
            raise InputError(f"--frames {self.frames}: a clip has 4·n + 1 frames.")
        return (self.frames - 1) // STRIDE + 1

    @property
    def first(self) -> int:
        """Latent frames of the first chunk."""
        return self.latents % self.chunk or self.chunk


def tiny() -> Config:
    """tiny-wan on the interruptions world; any laptop.

    A step took 1.4 s of one core of a machine that was busy with more; 600 are 14 minutes. Rates were not searched:
    after 150 steps the loss on what recovers had fallen from about .9 to .17, and views came back, most of them as they
    were last seen.
    """
    return Config(
        frames=49,
        height=64,
        width=64,
        fps=8.0,
        steps=600,
        batch=4,
        lr=3e-4,
        camera_lr=3e-3,
        warmup=30,
        shift=3.0,
        text_length=36,
        sampling_steps=20,
        guidance_scale=1.0,
    )


def wan2_1_1_3b() -> Config:
    """Wan2.1-T2V-1.3B at 832×480, 81 frames: 7 chunks of 3 latent frames."""
    return Config(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        out=Path("runs/remind-wan2.1-1.3b"),
        dtype="bf16",
        checkpointing=True,
    )


def wan2_2_5b() -> Config:
    """Wan2.2-TI2V-5B at the same size: 48 latent channels, 16× in space. Its weights, gradients and moments are 80 GB,
    which the processes share."""
    return Config(
        model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        out=Path("runs/remind-wan2.2-5b"),
        dtype="bf16",
        shard=True,
        checkpointing=True,
    )


PRESETS: dict[str, Callable[[], Config]] = {"tiny": tiny, "wan2.1-1.3b": wan2_1_1_3b, "wan2.2-5b": wan2_2_5b}


@dataclass(frozen=True)
class Command(CheckedSettings):
    """The settings, which every command takes; a command adds its own fields."""

    shows: ClassVar[tuple[type, ...]] = SAMPLES
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=tiny)


parse = partial(parse_with, PRESETS)
