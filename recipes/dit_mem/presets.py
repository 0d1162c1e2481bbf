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

import memkit
from memkit.encoders import EncoderName, EncoderSize
from memkit.generation import WAN_NEGATIVE_PROMPT
from memkit.retrievers import DEFAULT_MODEL
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

LAWS_QUERY = (
    r"(\w+) (?:ball|cube) .*(planet \w+)"
    r"|(tank fills with) \w+ (\w+)|(tank drains of) \w+ (\w+)|(block of) \w+ (\w+ melts)|(balloon with \w+ rises)"
)
"""Matches what a caption of the laws world says of the motion: "rubber planet Mira", "tank fills with wax"."""


@dataclass(frozen=True)
class Training(TrainSettings):
    """Training. The texts say which defaults are not those of the release."""

    encoder: EncoderName | str = "frequency"
    """Memory encoder; "dit_mem" is that of the release, and mypackage.module:MyEncoder is a class of your own."""
    encoder_size: EncoderSize = "tiny"
    """Size of the encoder; its width and latent channels are always those of the backbone."""
    gate: bool = False
    """Train a gate per layer and head; the release has no gate."""
    pool: int = 5
    """Number of best clips from which each step draws k; the release takes the best k. With 0 the memory is always the
    target itself, which shows what the tokens can carry."""
    gate_start: float = 0.0
    """Initial value of the gate, before tanh."""
    gate_lr: float = 1e-2
    """Learning rate of the gate, with the same schedule."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; the release does not clip."""
    weighting: Literal["bell", "uniform"] = "bell"
    """Weighting of the loss over timesteps: the bell of the release, without the highest noise levels, or none."""
    self_memory_prob: float = 0.0
    """Probability that the memory is the target itself, in the first fifth of training; it is 0 from half of the steps
    on. The release has 0."""
    image_cond_prob: float = 0.0
    """Probability of a step with a conditioning frame, as in image-to-video. The release has 0."""
    drop_clip: float = 0.0
    """Probability that a memory clip is hidden. One always stays, as nothing but the encoder is trained."""
    drop_text: float = 0.0
    """Probability of an empty prompt, so that both branches of guidance learn to use memory."""
    start: Path | None = None
    """Folder of a trained encoder to start from; by default a new one. Its configuration is that of the folder."""
    read_gravity: float | None = None
    """Weight of a second loss, by which the tokens of each memory clip tell its gravity; see ``reading.py``. The
    release has none."""
    ema: float = 0.0
    """Decay of the exponential moving average of encoder and gate, which is then saved; 0 switches it off."""


@dataclass(frozen=True)
class Sampling(SampleSettings):
    """Generation."""

    sampling_steps: int = 40
    """Number of sampling steps."""
    flow_shift: float | None = None
    """Flow shift of the scheduler; None keeps that of the pipeline."""
    negative_prompt: str = ""
    """Negative prompt of guidance."""
    videos_at_once: int = 1
    """Number of videos per call of the pipeline."""


@dataclass(frozen=True)
class Data(DataSettings):
    """Clips of the laws world."""

    laws: Literal["falls"] | None = None
    """"falls" renders only bodies of medium and large size that are dropped or thrown; by default, all kinds."""
    train_clips: int = 1440
    """Number of training clips, of 24 planets, 12 materials and 13 substances."""
    test_clips: int = 288
    """Number of test clips, of 6 unseen planets, 4 materials and 4 substances."""


@dataclass(frozen=True)
class Config(Training, Sampling, Data, Settings):
    """All settings."""

    out: Path = Path("runs/dit-mem-tiny")
    """Folder of the run: banks, encoder, log, results."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of the backbone; the weights of the encoder are always in fp32."""

    # -- retrieval
    text_model: str = DEFAULT_MODEL
    """Text encoder for retrieval: a folder or hub id; by default the one that comes with memkit."""
    trust_remote_code: bool = False
    """Run the code in the repository of the text model, which gte-base-en-v1.5 of the release needs."""
    k: int = 5
    """Number of memory clips per prompt."""
    query_pattern: str = ""
    """Regular expression whose matched groups are joined into the query. Without one, as in the release, the query is
    the whole caption."""

    @property
    def bank(self) -> Path:
        """Folder of the bank that the encoder is trained on."""
        return self.folder / "bank"

    @property
    def test_bank(self) -> Path:
        """Folder of the bank of unseen planets, materials and substances."""
        return self.folder / "bank-test"

    @property
    def encoder_folder(self) -> Path:
        """Folder of the trained encoder."""
        return self.out / "encoder"


def tiny() -> Config:
    """tiny-wan on the laws world, for any laptop.

    Small trials led to the differences from the release. Its learning rate is too low. Without a gate the encoder
    learned to be ignored; a gate that was closed at first opened too late; ``self_memory_prob`` opens it sooner. The
    bell leaves out the noise levels that decide a path. Of the three best clips, 52 % show the planet of the prompt
    if the query is the whole caption, and 96 % with ``LAWS_QUERY``. Given its first frame, a fall depends on little
    but gravity, at the highest noise levels; docs/dit-mem-evidence.md has the effect on training.
    """
    return Config(
        gate=True,
        gate_start=0.1,
        k=3,
        pool=6,
        query_pattern=LAWS_QUERY,
        steps=800,
        batch=16,
        lr=2e-3,
        warmup=30,
        schedule="cosine",
        shift=8.0,
        weighting="uniform",
        text_length=28,
        self_memory_prob=1.0,
        image_cond_prob=1.0,
        drop_text=0.1,
        sampling_steps=20,
        guidance_scale=2.0,
        videos_at_once=16,
    )


def tiny_falls() -> Config:
    """tiny-wan on falls alone: the case in which 64×64 pixels show the effect of memory plainly, for the demo.

    It continues the first encoder of ``tiny``, which memkit ships. The query is the planet alone; nearly all of the
    first 16 clips are of that planet. The noise levels are those at which a fall is decided, and the tokens of a clip
    are also trained to tell its gravity, which needs far fewer steps than the flow-matching loss alone.
    """
    return replace(
        tiny(),
        out=Path("runs/dit-mem-tiny-falls"),
        seed=0,
        start=Path(memkit.__file__).parent / "weights" / "dit-mem-tiny",
        laws="falls",
        train_clips=1600,
        query_pattern=r"planet \w+",
        pool=16,
        steps=1400,
        lr=1.5e-3,
        schedule="constant",
        ema=0.98,
        batch=8,
        shift=16.0,
        self_memory_prob=0.0,
        read_gravity=0.02,
        save_every=50,
        sampling_steps=8,
        guidance_scale=1.0,
    )


def wan2_1_1_3b() -> Config:
    """Wan2.1-T2V-1.3B with the settings of the release, which used 10 k clips and 8 accelerators with one clip each."""
    return Config(
        model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        out=Path("runs/dit-mem-wan2.1-1.3b"),
        encoder_size="wan2.1-1.3b",
        dtype="bf16",
        text_model="Alibaba-NLP/gte-base-en-v1.5",
        checkpointing=True,
        flow_shift=5.0,
        negative_prompt=WAN_NEGATIVE_PROMPT,
    )


def wan2_2_5b() -> Config:
    """Wan2.2-TI2V-5B, text-to-video."""
    return replace(
        wan2_1_1_3b(),
        model="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        out=Path("runs/dit-mem-wan2.2-5b"),
        encoder_size="wan2.2-5b",
    )


def wan2_1_14b() -> Config:
    """Wan2.1-T2V-14B, whose weights are sharded over the processes."""
    return replace(
        wan2_1_1_3b(),
        model="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        out=Path("runs/dit-mem-wan2.1-14b"),
        encoder_size="wan2.2-a14b",
        shard=True,
    )


def wan2_2_a14b() -> Config:
    """Wan2.2-T2V-A14B: one encoder for both experts, whose weights are sharded over the processes."""
    return replace(
        wan2_1_14b(), model="Wan-AI/Wan2.2-T2V-A14B-Diffusers", out=Path("runs/dit-mem-wan2.2-a14b"), flow_shift=None
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "tiny-falls": tiny_falls,
    "wan2.1-1.3b": wan2_1_1_3b,
    "wan2.2-5b": wan2_2_5b,
    "wan2.1-14b": wan2_1_14b,
    "wan2.2-a14b": wan2_2_a14b,
}


@dataclass(frozen=True)
class Command(CheckedSettings):
    """The settings, which every command takes; commands add their own fields."""

    shows: ClassVar[tuple[type, ...]] = SAMPLES
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=tiny)


SMOKE = {
    **{"train_clips": 12, "test_clips": 24, "pool": 3, "clips": 4},
    "prompts": ("a small red rubber ball falls and bounces in a lab on planet Mira",),
}
"""Values of --smoke, beside those of `memkit.training.smoke.SMALL`."""

parse = partial(parse_with, PRESETS, small=SMOKE)
command = partial(command_of, "recipes.dit_mem", PRESETS, small=SMOKE)
