"""The settings of the recipe, and the presets: functions that return the whole configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

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

RowName = Literal["context_k1", "framepack_len_r8", "block_wise_ssm_causal_v2"]
"""The rows with public checkpoints."""

NEGATIVE = "oversaturated colors, overexposed, static, blurry details"
"""The authors' negative prompt."""


@dataclass(frozen=True)
class Training(TrainSettings):
    """Training; by default the schedule of the authors' code. Their paper has 5,000 steps at 1e-4."""

    trained: Literal["added", "all"] = "added"
    """What is trained: the modules that are added and the backbone's weights outside its blocks, as in the authors'
    code, or the whole backbone, as in their README."""
    steps: int = 30_000
    """Number of optimizer steps."""
    lr: float = 5e-5
    """Learning rate of AdamW."""
    drop_context: float = 0.1
    """Probability of a sample without context frames."""
    context_poses: Literal["relative", "identity", "zero", "row"] = "row"
    """Poses of the context frames in training: "row" is what generation has. The authors train context_k1 with
    "zero"."""
    spike: float = 5.0
    """A step counts for nothing if its loss is more than this many times the running mean of earlier ones; 0 counts
    all. The mean, whose memory is 100 steps, is our reading."""


@dataclass(frozen=True)
class Sampling(SampleSettings):
    """Generation."""

    negative_prompt: str = NEGATIVE
    """Negative prompt of text guidance."""


@dataclass(frozen=True)
class Data(DataSettings):
    """Videos of the rooms world."""

    video_chunks: int = 8
    """Number of chunks per video."""
    train_videos: int = 200
    """Number of training videos, half with people and half without."""


@dataclass(frozen=True)
class Config(Training, Sampling, Data, Settings):
    """All settings."""

    out: Path = Path("runs/echo-memory-tiny")
    """Folder of the run: bank, weights, log, results."""
    row: RowName = "block_wise_ssm_causal_v2"
    """How context frames are placed and read."""
    frames: int = 5
    """Number of context frames, fewer than the latent frames of a chunk in causal_v2; the authors have 1 in context_k1
    and 81 in framepack_len_r8."""


def tiny() -> Config:
    """tiny-wan on the rooms world, for any laptop. All of it is trained: it has never seen frames beside a chunk."""
    return Config(
        trained="all",
        frames=4,
        steps=600,
        batch=16,
        lr=1e-3,
        warmup=30,
        schedule="cosine",
        shift=3.0,
        text_length=28,
        sampling_steps=20,
        guidance_scale=1.0,
    )


def wan2_1_1_3b() -> Config:
    """Wan2.1-T2V-1.3B in the row causal_v2, which has a recurrence."""
    return Config(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        out=Path("runs/echo-memory-wan2.1-1.3b"),
        dtype="bf16",
        checkpointing=True,
        shift=15.0,
    )


def wan2_1_1_3b_k1() -> Config:
    """Wan2.1-T2V-1.3B with one context frame."""
    return Config(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        out=Path("runs/echo-memory-k1-wan2.1-1.3b"),
        dtype="bf16",
        checkpointing=True,
        row="context_k1",
        frames=1,
        context_poses="zero",
        shift=5.0,
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "wan2.1-1.3b": wan2_1_1_3b,
    "wan2.1-1.3b-k1": wan2_1_1_3b_k1,
}


@dataclass(frozen=True)
class Command(CheckedSettings):
    """The settings, which every command takes; commands add their own fields."""

    shows: ClassVar[tuple[type, ...]] = SAMPLES
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=tiny)


SMOKE = {
    **{"train_videos": 2, "video_chunks": 3, "frames": 3, "schedules": ("right45_return_2chunk",)},
    **{"room": "test-00000", "turns": (45.0,)},
}
"""Values of --smoke, beside those of `memkit.training.smoke.SMALL`."""

parse = partial(parse_with, PRESETS, small=SMOKE)
command = partial(command_of, "recipes.echo_memory", PRESETS, small=SMOKE)
