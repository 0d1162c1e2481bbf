"""Film a plan: given latents, a prompt and a camera for each chunk, and perhaps an interruption that is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.interruptions import KINDS, CameraOff, InterruptedClip, LookAway, Occluder, Timing, interrupt
from memkit.positions import PMRoPE
from memkit.streaming import read_everything
from memkit.streaming.read_policies import Read
from memkit.video import from_model, to_model
from memkit.worlds.paths import FOV_DEGREES
from recipes.common.camera_paths import level_camera
from recipes.remind.presets import STRIDE, Config
from recipes.remind.rolling import Part, Roller

EventName = Literal["occluder", "lights-off", "look-away", "camera-loop", "camera-off", "fog"]
Frames = UInt8[Tensor, "frames height width 3"]
_BEFORE = 21  # frames that an event is encoded after: more than the VAE looks back
_RAMP = 4  # frames in which an event comes and goes


@dataclass(frozen=True)
class Plan:
    """What a video is made from: given latents, a prompt and a span of latent frames a chunk, a camera a latent."""

    known: Float[Tensor, "1 channels known height width"]
    prompts: Sequence[str]
    spans: Sequence[tuple[int, int]]
    cameras: Cameras
    event: EventName | None = None
    event_chunks: range = field(default_factory=lambda: range(0))


def make_plan(
    config: Config,
    backbone: WanBackbone,
    frames: Frames,
    prompts: Sequence[str],
    path: Cameras | None,
    chunks: int | None = None,
) -> Plan:
    """Chunks for the whole path, or as many as are asked for, at least enough for what is given and one more."""
    known = backbone.encode_video(to_model(frames).to(backbone.device))
    given = known.shape[2]
    wanted = config.latents if path is None else len(path.c2w)
    if chunks is None:
        chunks = 1 + max(0, math.ceil((wanted - config.first) / config.chunk))
    total = config.first + (chunks - 1) * config.chunk
    if total <= given:
        raise InputError(f"{chunks} chunks are {total} latent frames, and {given} are given; make more chunks.")
    if len(prompts) > chunks:
        raise InputError(f"There are {len(prompts)} prompts for {chunks} chunks; give at most one a chunk.")
    if path is None:
        one = level_camera(config.height, config.width, FOV_DEGREES)
        path = Cameras(one.c2w[None], one.intrinsics[None])
    rows = torch.arange(total).clamp(max=len(path.c2w) - 1)  # held at its end, and cut where there are fewer chunks
    starts = [0, *range(config.first, total, config.chunk)]
    return Plan(
        known=known,
        prompts=[*prompts, *[prompts[-1]] * (chunks - len(prompts))],
        spans=list(zip(starts, [*starts[1:], total], strict=True)),
        cameras=Cameras(path.c2w[rows], path.intrinsics[rows]),
    )


def with_event(config: Config, plan: Plan, event: EventName, chunks: tuple[int, int]) -> Plan:
    """The plan with an interruption in the chunks [start, stop); one that turns the camera turns that of the plan."""
    start, stop = chunks
    if not 0 < start < stop < len(plan.spans) or plan.spans[start][0] < plan.known.shape[2]:
        raise InputError(
            f"--event-chunks {start} {stop}: give chunks after what is given, with one left at the end of "
            f"{len(plan.spans)} to be made."
        )
    a, b = plan.spans[start][0], plan.spans[stop - 1][1]
    size = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    turned = hidden(event, size[0], STRIDE * (b - a), config.fps).c2w[STRIDE::STRIDE][: b - a]
    c2w = plan.cameras.c2w.clone()
    c2w[a:b] = c2w[a:b] @ turned.to(c2w)
    cameras = Cameras(c2w, plan.cameras.intrinsics)
    return replace(plan, cameras=cameras, event=event, event_chunks=range(start, stop))


def hidden(event: EventName, frame: UInt8[Tensor, "height width 3"], count: int, fps: float) -> InterruptedClip:
    """``frame`` held, interrupted in the frames 1 to ``count``; frame 0 is clean, and so are some at the end."""
    kind = next(kind for kind in KINDS if event == kind.NAME)
    frames = count + 10  # so that the end, which `interrupt` keeps clean, is behind the event
    ramp = 0 if kind is CameraOff else min(_RAMP, count // 2)
    timing = Timing(*(x / (frames - 1) for x in (0, ramp, count + 1 - ramp, count + 1)))
    if issubclass(kind, Occluder):
        by = kind(timing=timing, cover=1.0)
    else:
        by = kind(timing=timing, keep=1.0) if issubclass(kind, LookAway) else kind(timing=timing)
    return interrupt(frame.expand(frames, *frame.shape), fps, by)


@torch.no_grad()
def film(
    config: Config,
    backbone: WanBackbone,
    positions: PMRoPE | None,
    plan: Plan,
    seed: int,
    read: Read = read_everything,
) -> Frames:
    """The frames of a plan."""
    size, total = (plan.known.shape[3], plan.known.shape[4]), plan.spans[-1][1]
    cameras = Cameras(plan.cameras.c2w[None], plan.cameras.intrinsics[None])
    roller = Roller(config, backbone, positions, [seed], cameras, size, total, read)
    latents, event = plan.known[:, :, :0], None
    for i, (a, b) in enumerate(tqdm(plan.spans, desc="chunks")):
        known = plan.known[:, :, a:b]
        if i in plan.event_chunks:
            assert plan.event is not None
            first, last = plan.spans[plan.event_chunks[0]][0], plan.spans[plan.event_chunks[-1]][1]
            if event is None:
                event = _event_latents(config, backbone, latents, plan.event, last - first)
            known = event[:, :, a - first : b - first]
        part = Part([plan.prompts[i]], b - a, known if known.shape[2] else None)
        latents = torch.cat([latents, roller.generate(part).to(latents)], dim=2)
    return from_model(backbone.decode_latents(latents)).cpu()


def _event_latents(config: Config, backbone: WanBackbone, latents: Tensor, event: EventName, count: int) -> Tensor:
    """Latents of an event over the last frame of ``latents``."""
    before = from_model(backbone.decode_latents(latents)).cpu()
    over = hidden(event, before[-1], STRIDE * count, config.fps).video[1 : STRIDE * count + 1]
    both = torch.cat([before[-_BEFORE:], over])
    return backbone.encode_video(to_model(both).to(backbone.device))[:, :, -count:]
