"""The lines that ``memkit plan`` prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from memkit.backbones.cost import WanCost
from memkit.backbones.presets import PRESETS, VideoFormat
from memkit.checks import check_whole
from memkit.encoders.frequency import FrequencyEncoder, FrequencyEncoderConfig
from memkit.errors import InputError

if TYPE_CHECKING:
    from memkit.cli.plan import Plan

BYTES = 2
"""Per number, in bf16."""
MOST = 1_000_000


def plan_lines(plan: Plan) -> list[str]:
    """The plan as text.

    Raises `InputError` for sizes that the model cannot have.
    """
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
    if not clips:
        return 0
    sizes = FrequencyEncoderConfig.wan_5b() if cost.latents[0] == 48 else FrequencyEncoderConfig.wan_14b()
    with torch.device("meta"):
        return FrequencyEncoder(sizes)(torch.empty(1, clips, *cost.latents)).tokens.shape[1]


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
    layers = cost.preset.transformer["num_layers"]
    frame = 2 * layers * cost.tokens_per_frame * cost.width * BYTES * cost.preset.experts
    hidden = plan.batch * cost.tokens * cost.width * BYTES
    rows = [
        ("weights of the transformer", cost.parameters * BYTES * cost.preset.experts),
        ("latents of the video", plan.batch * math.prod(cost.latents) * BYTES),
        ("hidden states of one layer", hidden),
        (f"memory tokens of {plan.memory} clips ({tokens} tokens)", plan.batch * tokens * cost.width * BYTES),
        ("latents of these clips on disk", plan.memory * math.prod(cost.latents) * BYTES),
    ]
    if plan.cached:
        rows.append((f"KV cache of {plan.cached} latent frames", passes * plan.cached * frame))
    return ["bytes in bf16", *(f"  {name:44} {_size(count):>10}" for name, count in rows), ""]


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


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
