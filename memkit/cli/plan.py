"""``memkit plan``: what a model with memory needs, computed from its sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from memkit.display import counted, size_of
from memkit.errors import InputError

if TYPE_CHECKING:
    from memkit.backbones.cost import WanCost

Model = Literal[
    "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.1-i2v-14b", "wan2.2-ti2v-5b", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b"
]

BYTES = 2
"""Per number, in bf16."""
MOST = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Print the bytes and the time that a model with memory needs. Nothing is loaded or measured: sizes say all."""

    model: Model = "wan2.1-t2v-1.3b"
    """A published Wan."""
    frames: int | None = None
    """Number of video frames, by default those that the model was trained with; so are height and width."""
    height: int | None = None
    """Height in pixels."""
    width: int | None = None
    """Width in pixels."""
    memory: int = 5
    """Reference clips per prompt, of the length and size of the video, encoded by FrequencyEncoder."""
    cached: int = 0
    """Latent frames in a KV cache; the video is then generated in chunks."""
    chunk: int = 3
    """Latent frames per chunk, with a KV cache."""
    steps: int = 50
    """Number of denoising steps."""
    guidance: bool = True
    """Whether classifier-free guidance runs the model twice per step."""
    batch: int = 1
    """Number of videos at once."""
    tflops: float = 400.0
    """Operations per second that the device achieves, in 10¹²: about 400 for an H100 in bf16, at 40 % of its peak."""

    def run(self) -> int:
        print("\n".join(plan_lines(self)))
        return 0


def plan_lines(plan: Plan) -> list[str]:
    """The plan as text.

    Raises `InputError` for sizes that the model cannot have.
    """
    from memkit.backbones.cost import WanCost
    from memkit.backbones.presets import PRESETS, VideoFormat
    from memkit.checks import check_whole

    counts = {"memory": plan.memory, "cached": plan.cached, "chunk": plan.chunk, "steps": plan.steps}
    for name, count in (*counts.items(), ("batch", plan.batch)):
        check_whole(f"--{name}", count, 0 if name in ("memory", "cached") else 1, MOST)
    if not 0 < plan.tflops < math.inf:
        raise InputError(f"--tflops is {plan.tflops}; give a positive number.")
    preset = PRESETS[plan.model]()
    form = preset.video_format
    cost = WanCost(
        preset,
        VideoFormat(plan.frames or form.num_frames, plan.height or form.height, plan.width or form.width, form.fps),
    )
    tokens = memory_tokens(cost, plan.memory)
    passes = plan.batch * (2 if plan.guidance else 1)
    return [*_sizes(plan, cost), *_bytes(plan, cost, tokens, passes), *_time(plan, cost, tokens, passes)]


def memory_tokens(cost: WanCost, clips: int) -> int:
    """Memory tokens of so many clips of the size of the video."""
    from memkit.encoders.frequency import FrequencyEncoderConfig

    sizes = FrequencyEncoderConfig.wan_5b() if cost.latents[0] == 48 else FrequencyEncoderConfig.wan_14b()
    return clips * sizes.tokens(*cost.latents[1:])


def _sizes(plan: Plan, cost: WanCost) -> list[str]:
    _, frames, height, width = cost.latents
    experts = f", in each of its {cost.preset.experts} experts" if cost.preset.experts > 1 else ""
    return [
        f"{plan.model}: {cost.parameters / 1e9:.2f} billion parameters{experts}",
        f"{cost.video.num_frames} frames of {cost.video.width}×{cost.video.height}: {frames} latent frames of "
        f"{height}×{width}, {cost.tokens:,} tokens",
        "",
    ]


def _bytes(plan: Plan, cost: WanCost, tokens: int, passes: int) -> list[str]:
    import torch

    from memkit.injectors.kv_cache.cache import frame_bytes

    frame = frame_bytes(cost.model, *cost.latents[2:], dtype=torch.bfloat16) * cost.preset.experts
    hidden = plan.batch * cost.tokens * cost.width * BYTES
    clips = counted(plan.memory, "clip")
    rows = [
        ("weights of the transformer", cost.parameters * BYTES * cost.preset.experts),
        ("latents of the video", plan.batch * math.prod(cost.latents) * BYTES),
        ("hidden states of one layer", hidden),
        (f"memory tokens of {clips} ({tokens} tokens)", plan.batch * tokens * cost.width * BYTES),
        ("latents of these clips on disk", plan.memory * math.prod(cost.latents) * BYTES),
    ]
    if plan.cached:
        rows.append((f"KV cache of {plan.cached} latent frames", passes * plan.cached * frame))
    return ["bytes in bf16", *(f"  {name:44} {size_of(count):>10}" for name, count in rows), ""]


def _time(plan: Plan, cost: WanCost, tokens: int, passes: int) -> list[str]:
    calls, own, cached = 1, cost.tokens, 0
    if plan.cached:
        calls, own = math.ceil(cost.latents[1] / plan.chunk), plan.chunk * cost.tokens_per_frame
        cached = plan.cached * cost.tokens_per_frame
    plain, whole = (calls * cost.operations(own, count, cached) for count in (0, tokens))
    steps = plan.steps + (1 if plan.cached else 0)  # the last one writes the clean chunk
    seconds = passes * steps * whole / (plan.tflops * 1e12)
    chunks = f", in {calls} chunks of {plan.chunk} latent frames" if plan.cached else ""
    return [
        f"operations{chunks}",
        f"  {'of a denoising step of one video':44} {whole / 1e12:,.1f}·10¹²",
        f"  {'of these, for the memory tokens':44} {100 * (whole - plain) / whole:.1f} %",
        f"  {f'time of {steps} steps, {passes} passes each':44} {seconds:,.1f} s at {plan.tflops:g}·10¹²/s",
        "",
        "All of this is computed, not measured. It leaves out the text encoder, the autoencoder and temporary memory.",
    ]
