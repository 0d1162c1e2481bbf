"""The settings of the recipe, and the presets.

A preset is a function that returns the whole configuration; each field can be replaced on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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

Annotation = Literal["exact", "estimated", "none"]
"""Source of the poses of a bank: rendered or measured, estimated from the frames, or no poses."""

MethodName = Literal["learned", "cam", "window", "framepack", "separate", "none"]
"""Memory of a chunk: learned queries, frames retrieved by their view, the newest frames, packed frames (FramePack), a
separate query module, or none."""


@dataclass(frozen=True)
class Training(TrainSettings):
    """Training. The texts say which defaults are not the paper's."""

    start: Path | None = None
    """Folder of a run of this recipe, whose transformer and camera encoders training starts from."""
    more_banks: tuple[Path, ...] = ()
    """Further banks to train on. A step is on one bank, drawn in proportion to the number of its videos."""
    context_noise: Literal["clean", "independent"] = "clean"
    """Context frames of "window" in training: clean, or each with an independent noise level (DFoT). They are clean in
    generation."""
    pretrain_steps: int = 0
    """Number of first steps in which only the module of "separate" is trained, with the loss L1(Q, P) of the paper."""
    query_loss: float = 0.0
    """Weight of a loss on the queries of "learned" at timestep 0: the mean squared error of the latents that the model
    predicts from them, against those of the chunk. The paper has no such loss."""
    steps: int = 20_000
    """Number of optimizer steps, that of the paper."""
    lr: float = 5e-5
    """Learning rate of AdamW, that of the paper."""
    camera_lr: float = 5e-5
    """Learning rate of the modules added to the backbone: camera encoders, packing, query module."""
    drop_context: float = 0.0
    """Probability of a step of "window" without context, which history guidance needs."""


@dataclass(frozen=True)
class Sampling(SampleSettings):
    """Generation."""

    budget: int | None = None
    """Largest size in bytes of the latents that a rollout remembers; None remembers all."""
    history_guidance: float = 1.0
    """Scale ω of history guidance of "window": v(∅) + ω·(v(H) − v(∅))."""


Suite = Literal["rooms", "gallery"]
"""World of the rendered videos: rooms with people (`memkit.worlds.rooms`), or galleries (`memkit.worlds.gallery`)."""


@dataclass(frozen=True)
class Data(DataSettings):
    """Videos that are rendered."""

    suite: Suite = "rooms"
    """World of the videos: two rooms with furniture and people; or eight panels of saturated colours around the camera,
    which are scored by their colours when they come back (docs/gallery.md)."""
    video_chunks: int = 10
    """Number of chunks per video; a chunk begins with the last frame of the previous one."""
    train_videos: int = 400
    """Number of training videos, half with people (or a figure) and half without."""
    test_videos: int = 64
    """Number of test videos of unseen rooms, each room with people and without."""


@dataclass(frozen=True)
class Config(Training, Sampling, Data, Settings):
    """All settings."""

    out: Path = Path("runs/memlearner-tiny")
    """Folder of the run: banks, weights, log, results."""
    annotations: tuple[Annotation, ...] = ("exact",)
    """Kinds of poses in the training banks, each with its own camera encoder. Generation uses the encoder of the first
    one, which is "exact" in the paper."""

    # -- memory
    method: MethodName = "learned"
    """Memory of a chunk; see docs/memlearner.md."""
    layers: int = 5
    """Number of query layers of "learned", or of blocks of "separate"."""
    query: Literal["noise", "copy"] = "copy"
    """Initial queries Q: a copy of the noisy chunk P, or noise, as in the paper, which found both equally good."""
    query_sees_prediction: bool = True
    """Let the queries attend to the chunk (the edge Q→P)."""
    query_sees_query: bool = False
    """Let the queries attend to each other (the edge Q→Q)."""
    query_time: Literal["clean", "shared"] = "shared"
    """Timestep of the queries: that of the chunk, as we read the paper, or 0 ("clean")."""
    context_time: Literal["clean", "shared"] = "clean"
    """Timestep of the context C of "learned": 0, as we read the paper, so that C is computed once per chunk; or that of
    the chunk."""
    chunks: int = 9
    """Largest number of chunks of context: the newest ones, or for "cam" those to retrieve frames from."""
    frames: int = 20
    """Number of context frames of "cam" and "window"."""


def tiny() -> Config:
    """tiny-wan on the rooms world, for any laptop."""
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


def gallery() -> Config:
    """tiny-wan on the gallery world, with random lengths of context in the sequence: a base that can retrieve."""
    return replace(
        tiny(), suite="gallery", out=Path("runs/memlearner-gallery"), method="window", frames=20, layers=8, chunks=3,
        video_chunks=4, train_videos=189, test_videos=0, batch=16, steps=500, sampling_steps=12,
        history_guidance=2.0, seed=0,  # guidance: docs/gallery.md
    )  # fmt: skip


def wan2_1_1_3b() -> Config:
    """Wan2.1-T2V-1.3B with the settings of the paper, which used 8 accelerators with one chunk each."""
    return Config(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        out=Path("runs/memlearner-wan2.1-1.3b"),
        dtype="bf16",
        checkpointing=True,
    )


def wan2_2_5b() -> Config:
    """Wan2.2-TI2V-5B, the public model closest to that of the paper: it was trained with clean first frames. Its
    weights, gradients and moments take 80 GB, which the processes share."""
    return Config(
        model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        out=Path("runs/memlearner-wan2.2-5b"),
        dtype="bf16",
        shard=True,
        checkpointing=True,
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "gallery": gallery,
    "wan2.1-1.3b": wan2_1_1_3b,
    "wan2.2-5b": wan2_2_5b,
}


SHIPPED = "memlearner-tiny"
"""The trained weights of this recipe that memkit ships."""


@dataclass(frozen=True)
class Command(CheckedSettings):
    """The settings, which every command takes; commands add their own fields."""

    shows: ClassVar[tuple[type, ...]] = SAMPLES
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=tiny)


SMOKE = {
    **{"train_videos": 2, "test_videos": 0, "video_chunks": 3, "chunks": 2, "frames": 3},
    **{"room": "test-00000", "keys": "right-8"},
}
"""Values of --smoke, beside those of `memkit.training.smoke.SMALL`."""

parse = partial(parse_with, PRESETS, small=SMOKE)
command = partial(command_of, "recipes.memlearner", PRESETS, small=SMOKE)
