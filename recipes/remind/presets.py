"""The settings of the recipe, and the presets.

A preset is a function that returns the whole configuration; each field can be replaced on the command line. The paper
gives neither rates nor schedules, so all defaults below are our choice, except for the sizes of the models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

import memkit
from memkit.backbones import VideoFormat
from memkit.errors import InputError
from memkit.training import (
    SAMPLES,
    CheckedSettings,
    DataSettings,
    SampleSettings,
    Settings,
    TrainSettings,
    command_of,
    parse_with,
)
from memkit.worlds.interruptions import CaptionsOf

CameraMode = Literal["off", "phase", "full"]
STRIDE = 4  # video frames per latent frame, except for the first one, in every Wan


@dataclass(frozen=True)
class Training(TrainSettings):
    """Training, with the curriculum. 0 (or --no-frontier) switches a part of it off."""

    frontier: bool = True
    """Frontier continuation: condition on the first n chunks, with a random n per step. Otherwise a step conditions on
    --conditioning-frames latent frames."""
    node_drop: float = 0.3
    """Probability that a chunk is hidden from all later chunks."""
    node_drop_degraded: float = 0.6
    """The same for chunks that show the interruption; with --node-drop 0 it is 0 too."""
    noisy_memory: float = 0.5
    """Largest noise level σ of the chunks in memory."""
    reference: float = 0.2
    """Probability that a step sees clean reference frames 40 to 48 latent frames back, and nothing in between."""
    undisturbed_prob: float = 0.25
    """Probability that a step is on undisturbed clips with all of their past, which prevents forgetting."""
    anchor: bool = True
    """Make the last clean chunk before an interruption an anchor, which is never hidden or noised."""
    conditioning_frames: int = 1
    """Number of conditioning frames at the start of a clip, in latent frames, without frontier; 1 is image-to-video."""
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
    """Number of sampling steps per chunk."""
    guidance_scale: float = 3.0
    """Scale of classifier-free guidance; 1 switches it off."""
    cache_frames: int | None = None
    """Capacity of the cache in latent frames; None holds the whole video."""


@dataclass(frozen=True)
class Data(DataSettings):
    """Clips of the interruptions world."""

    train_clips: int = 480
    """Number of training clips."""
    test_clips: int = 60
    """Number of test clips, with unseen substances; a fifth of them have fog, which no training clip has."""
    world_captions: CaptionsOf = "process"
    """What the captions of rendered clips name: the process and its substance, or with "scene" only what stands there,
    so that a hidden process can be known from memory alone."""


@dataclass(frozen=True)
class Config(Training, Sampling, Data, Settings):
    """All settings."""

    out: Path = Path("runs/remind-tiny")
    """Folder of the run: banks, weights, log, results."""

    # -- clips
    frames: int = 81
    """Number of video frames per clip, 4·n + 1; they are n + 1 latent frames."""
    height: int = 480
    width: int = 832
    fps: float = 16.0
    chunk: int = 3
    """Number of latent frames per chunk; the first chunk has the remainder: 21 are 7·3, 13 are 1 + 4·3."""

    # -- the model and its sampler
    cameras: CameraMode = "phase"
    """PM-RoPE: off, a camera phase of queries and keys, or also the terms of values and output ("full")."""
    shift: float = 5.0
    """Shift s of the noise levels, in training and in the sampler: σ = s·u / (1 + (s−1)·u)."""
    text_length: int = 512
    """Number of text tokens in training and streaming. The rest of the pipeline's padding is one key with a log-weight,
    which gives the same result at a lower cost."""

    @property
    def form(self) -> VideoFormat:
        """Number of frames, size and frame rate of the clips."""
        return VideoFormat(self.frames, self.height, self.width, self.fps)

    @property
    def latents(self) -> int:
        """Number of latent frames per clip. Raises `InputError` if ``frames`` is not 4·n + 1."""
        if self.frames < 1 or (self.frames - 1) % STRIDE:
            raise InputError(f"--frames {self.frames}: a clip has 4·n + 1 frames.")
        return (self.frames - 1) // STRIDE + 1

    @property
    def first(self) -> int:
        """Number of latent frames in the first chunk."""
        return self.latents % self.chunk or self.chunk


def tiny() -> Config:
    """tiny-wan on the interruptions world, for any laptop.

    A step takes 1.4 s on one core of a busy machine, so that 600 steps take 14 minutes. The learning rates were not
    tuned: after 150 steps the loss on the recovered frames had decreased from about 0.9 to 0.17.
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
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", out=Path("runs/remind-wan2.1-1.3b"), dtype="bf16", checkpointing=True
    )


def wan2_2_5b() -> Config:
    """Wan2.2-TI2V-5B at the same size. Its weights, gradients and moments take 80 GB, which the processes share."""
    return Config(
        model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        out=Path("runs/remind-wan2.2-5b"),
        dtype="bf16",
        shard=True,
        checkpointing=True,
    )


PRESETS: dict[str, Callable[[], Config]] = {"tiny": tiny, "wan2.1-1.3b": wan2_1_1_3b, "wan2.2-5b": wan2_2_5b}


SHIPPED = "remind-tiny"
"""The trained weights of this recipe that memkit ships."""


@dataclass(frozen=True)
class Command(CheckedSettings):
    """The settings, which every command takes; commands add their own fields."""

    shows: ClassVar[tuple[type, ...]] = SAMPLES
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=tiny)


SMOKE = {
    **{"train_clips": 2, "test_clips": 1, "clips": 1, "chunks": 3, "height": 32, "width": 32},
    **{"image": Path(memkit.__file__).parent / "demo" / "clips" / "start.png"},
    **{"prompts": ("a red ball falls in a meadow",), "event": "occluder", "event_chunks": (1, 2)},
}
"""Values of --smoke, beside those of `memkit.training.smoke.SMALL`."""

parse = partial(parse_with, PRESETS, small=SMOKE)
command = partial(command_of, "recipes.remind", PRESETS, small=SMOKE)
