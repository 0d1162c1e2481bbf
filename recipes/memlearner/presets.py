"""The settings of the recipe, and the presets.

A preset is a function that returns the whole configuration; each field can be replaced on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from memkit.training import SAMPLES, CheckedSettings, DataSettings, SampleSettings, Settings, TrainSettings, parse_with

Annotation = Literal["exact", "estimated", "none"]
"""How the poses of a bank's videos are known: rendered or measured, estimated from the pictures, not at all."""

MethodName = Literal["learned", "cam", "window", "framepack", "separate", "none"]
"""How a chunk comes by its past: learned queries, frames found by their view, the newest frames, packed ones, a query
module of its own, or not at all."""


@dataclass(frozen=True)
class Training(TrainSettings):
    """Training. A comment says where a default is our reading of the paper."""

    start: Path | None = None
    """A run of this recipe whose transformer and camera encoder training starts from, instead of the model's."""
    more_banks: tuple[Path, ...] = ()
    """Banks to train on beside BANKS/train, each as often as it has videos; a step is of one bank."""
    context_noise: Literal["clean", "independent"] = "clean"
    """Context frames of "window" in training: as they are, or each noised at a level of its own, drawn as that of the
    chunk (DFoT's way). Generation shows them clean."""
    pretrain_steps: int = 0
    """Steps before all others in which the module of "separate" learns alone, by L1(Q, P) (the paper's rescue)."""
    query_loss: float = 0.0
    """Weight of a loss of the queries' own in "learned" with the timestep 0: the mean squared error of the latents that
    they hold at the end of the model, against the chunk's. Ours; the paper has none."""
    steps: int = 20_000
    """Optimizer steps; the paper's number."""
    lr: float = 5e-5
    """Learning rate of AdamW; the paper's."""
    camera_lr: float = 5e-5
    """Learning rate of what the backbone does not have: camera encoders, packing, a query module."""
    drop_context: float = 0.0
    """Probability of no context in a step of "window", beside the lengths drawn, for history guidance."""


@dataclass(frozen=True)
class Sampling(SampleSettings):
    """Generation."""

    budget: int | None = None
    """Bytes of latents that a rollout keeps; None keeps all."""
    history_guidance: float = 1.0
    """Scale ω of "window" in generation: v(∅) + ω·(v(H) − v(∅))."""


@dataclass(frozen=True)
class Data(DataSettings):
    """Videos of the rooms world."""

    video_chunks: int = 10
    """Chunks that a long video is cut into; each begins with the last frame of the one before."""
    train_videos: int = 400
    """Videos to train on: half with people and half without."""
    test_videos: int = 64
    """Videos of rooms that nothing was trained on: half with people, and as many of the same rooms without."""


@dataclass(frozen=True)
class Config(Training, Sampling, Data, Settings):
    """All settings."""

    out: Path = Path("runs/memlearner-tiny")
    """Folder of the run: banks, weights, log, results."""
    annotations: tuple[Annotation, ...] = ("exact",)
    """Kinds of poses in the banks of training, each with a camera encoder of its own. The first is what generation
    takes its path for; the paper: the exact one."""

    # -- memory
    method: MethodName = "learned"
    layers: int = 5
    """Query layers of "learned", blocks of "separate"."""
    query: Literal["noise", "copy"] = "copy"
    """What Q starts from: the noisy P of each step, or noise. The paper has noise, and found a copy as good."""
    query_sees_prediction: bool = True
    """The edge Q→P."""
    query_sees_query: bool = False
    """The edge Q→Q."""
    query_time: Literal["clean", "shared"] = "shared"
    """Timestep of Q: that of P, or 0; our reading: that of P."""
    context_time: Literal["clean", "shared"] = "clean"
    """Timestep of C in "learned"; our reading: 0, with which C is run once per chunk."""
    chunks: int = 9
    """Most chunks of context: the newest ("learned", "separate"), or those that "cam" looks in."""
    frames: int = 20
    """Context frames of "cam" and "window"."""


def tiny() -> Config:
    """tiny-wan in the rooms world; any laptop."""
    return Config(
        layers=2,
        frames=10,
        steps=250,
        batch=32,
        lr=1e-3,
        camera_lr=3e-3,
        warmup=30,
        schedule="cosine",
        shift=3.0,
        text_length=28,
        sampling_steps=20,
        guidance_scale=1.0,
    )


def wan2_1_1_3b() -> Config:
    """Wan2.1-T2V-1.3B with the settings of the paper: 5 query layers, 20 K steps, 8 accelerators, a chunk each."""
    return Config(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        out=Path("runs/memlearner-wan2.1-1.3b"),
        dtype="bf16",
        checkpointing=True,
    )


def wan2_2_5b() -> Config:
    """Wan2.2-TI2V-5B, the nearest public model to the paper's own: it knows clean first frames already. Its
    weights, gradients and moments are 80 GB, which the processes share."""
    return Config(
        model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        out=Path("runs/memlearner-wan2.2-5b"),
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
