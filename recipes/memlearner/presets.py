"""The settings of the recipe, and the presets.

A preset is a function that returns the whole configuration; each field can be replaced on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from recipes.commands import parse_with
from recipes.launch import Tracker

Annotation = Literal["exact", "estimated", "none"]
"""How the poses of a bank's videos are known: rendered or measured, estimated from the pictures, not at all."""

MethodName = Literal["learned", "cam", "window", "framepack", "separate", "none"]
"""How a chunk comes by its past: learned queries, frames found by their view, the newest frames, packed ones, a query
module of its own, or not at all."""


@dataclass(frozen=True)
class Config:
    """Everything. A comment says where a default is our reading of the paper."""

    model: str = "tiny"
    """The backbone that training starts from: "tiny", a diffusers folder, or a hub id."""
    start: Path | None = None
    """A run of this recipe whose transformer and camera encoder training starts from, instead of the model's."""
    out: Path = Path("runs/memlearner-tiny")
    """Folder of the run: banks, weights, log, results."""
    banks: Path | None = None
    """Folder of the banks, where several runs share them; by default OUT."""
    more_banks: tuple[Path, ...] = ()
    """Banks to train on beside BANKS/train, each as often as it has videos; a step is of one bank."""
    annotations: tuple[Annotation, ...] = ("exact",)
    """Kinds of poses in the banks of training, each with a camera encoder of its own. The first is what generation
    takes its path for; the paper: the exact one."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of what is computed in training; its weights are fp32 always."""
    device: str = "auto"
    """"auto" is CUDA where there is one."""
    threads: int = 0
    """CPU threads; 0 leaves it to torch."""
    seed: int = 42
    """Of training, generation and evaluation."""

    # -- memory
    method: MethodName = "learned"
    layers: int = 5
    """Query layers of "learned", blocks of "separate"."""
    query: Literal["noise", "copy"] = "noise"
    """What Q starts from."""
    query_sees_prediction: bool = True
    """The edge Q→P."""
    query_sees_query: bool = False
    """The edge Q→Q."""
    query_time: Literal["clean", "shared"] = "clean"
    """Timestep of Q: 0 or that of P; our reading: 0."""
    context_time: Literal["clean", "shared"] = "clean"
    """Timestep of C in "learned"; our reading: 0, with which C is run once a chunk."""
    chunks: int = 9
    """At most so many chunks of context: the newest ("learned", "separate"), or those that "cam" looks in."""
    frames: int = 20
    """Context frames of "cam" and "window"."""
    budget: int | None = None
    """Bytes of latents that a rollout keeps; None keeps all."""
    history_guidance: float = 1.0
    """Of "window" in generation: v(∅) + ω·(v(H) − v(∅))."""
    context_noise: Literal["clean", "independent"] = "clean"
    """Context frames of "window" in training: as they are, or each noised at a level of its own, drawn as that of the
    chunk (DFoT's way). Generation shows them clean."""
    pretrain_steps: int = 0
    """Steps before all others in which the module of "separate" learns alone, by L1(Q, P) (the paper's rescue)."""

    # -- training
    steps: int = 20_000
    batch: int = 1
    """Targets a step and process."""
    lr: float = 5e-5
    """Of AdamW."""
    camera_lr: float = 5e-5
    """Of what the backbone did not bring along: camera encoders, packing, a query module."""
    warmup: int = 0
    """Steps."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; cosine ends at 5 %."""
    clip_norm: float = 1.0
    """Largest norm of a gradient."""
    shift: float = 5.0
    """Of the noise levels in training: σ = s·u / (1 + (s−1)·u)."""
    drop_text: float = 0.1
    """Probability of an empty prompt; our reading: it is what the guidance of the text needs."""
    drop_context: float = 0.0
    """Probability of no context in a step of "window", beside the lengths drawn, for history guidance."""
    text_length: int = 512
    """Text tokens in training. The pipeline's padding beyond is one key with a log-weight: the same, but cheaper."""
    shard: bool = False
    """Spread the backbone's weights, gradients and moments over the processes (FSDP2), for one that fits on none."""
    checkpointing: bool = False
    """Recompute the backbone's activations in the backward pass instead of keeping them."""
    tracker: Tracker = "none"
    """What gets the log besides log.jsonl."""
    save_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between rows of the log."""

    # -- generation
    sampling_steps: int = 50
    """Of the pipeline."""
    guidance_scale: float = 5.0
    """Of the text; 1 is none."""

    # -- videos of the rooms world, rendered by ``prepare`` where no videos are given
    video_chunks: int = 10
    """Chunks that a long video is cut into; each begins with the last frame of the one before."""
    train_videos: int = 400
    """Half with people and half without."""
    test_videos: int = 64
    """Of rooms that nothing was trained on: half with people, and as many of the same rooms without."""

    @property
    def folder(self) -> Path:
        """Of the banks."""
        return self.banks or self.out


def tiny() -> Config:
    """tiny-wan in the rooms world; any laptop."""
    return Config(
        layers=2,
        frames=10,
        steps=600,
        batch=16,
        lr=3e-4,
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
class Command:
    """What the command lines share; a command adds its own fields."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=tiny)


AnyCommand = TypeVar("AnyCommand", bound=Command)


def parse(command: type[AnyCommand], description: str | None, arguments: Sequence[str] | None = None) -> AnyCommand:
    """The command line of ``command``; see `recipes.commands.parse_with`."""
    return parse_with(PRESETS, command, description, arguments)
