"""Sample videos chunk by chunk with the settings of a run: some latents are given, the others are generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras, level_camera
from memkit.errors import InputError
from memkit.injectors import AttentionRecorder, frame_bytes
from memkit.interruptions import InterruptionName, interrupt_still
from memkit.positions import PMRoPE
from memkit.streaming import Stream, StreamConfig, read_everything
from memkit.streaming.read_policies import Read
from memkit.video import from_model, to_model
from memkit.worlds.paths import FOV_DEGREES
from recipes.remind.presets import STRIDE, Config

Frames = UInt8[Tensor, "frames height width 3"]
Latents = Float[Tensor, "batch channels frames height width"]
_VAE_PAST = 21  # frames that an event is encoded after: more than the VAE looks back


class Chunk(NamedTuple):
    """One chunk of a batch of videos: their prompts, its latent frames, and the latents of the first ones if given."""

    prompts: Sequence[str]
    frames: int
    conditioning: Latents | None = None


def load_cameras(config: Config, backbone: WanBackbone, folder: Path) -> PMRoPE:
    """The PM-RoPE that training has saved in ``folder``. Raises `InputError` if it has another mode."""
    if not (folder / "cameras" / "config.json").exists():
        raise InputError(f"There is no {folder / 'cameras'}; run recipes.remind.train first.")
    cameras = PMRoPE.from_pretrained(folder / "cameras").to(backbone.device)
    if cameras.config.mode != config.cameras:
        raise InputError(f"{folder} was trained with --cameras {cameras.config.mode}, not {config.cameras}.")
    return cameras


def open_stream(
    config: Config,
    backbone: WanBackbone,
    positions: PMRoPE | None,
    seeds: Sequence[int],
    cameras: Cameras,
    size: tuple[int, int],
    frames: int,
    read: Read = read_everything,
) -> Stream:
    """A stream of one video per seed, of ``frames`` latent frames of that height and width.

    ``cameras`` [B or 1, frames] are those of the whole video; without PM-RoPE they are not used.
    """
    if positions is not None and positions.config.mode == "off":
        positions = None
    settings = StreamConfig(
        config.chunk,
        config.first,
        config.sampling_steps,
        config.shift,
        config.guidance_scale,
        text_length=config.text_length,
    )
    cached = (1 if config.guidance_scale == 1 else 2) * (config.cache_frames or frames)
    return Stream(
        backbone,
        seeds,
        cached * frame_bytes(backbone.transformer, *size, batch=len(seeds)),
        settings,
        read=read,
        positions=positions,
        cameras=None if positions is None else cameras,
        size=size,
    )


def sample_chunk(stream: Stream, chunk: Chunk, recorder: AttentionRecorder | None = None) -> Latents:
    """The latents of the next chunk of a stream."""
    conditioning = None if chunk.conditioning is None else chunk.conditioning.to(stream.backbone.device)
    return stream.generate(chunk.prompts, conditioning, chunk.frames, recorder=recorder)


def sample_chunks(
    stream: Stream, chunks: Sequence[Chunk], record: bool = False
) -> tuple[Latents, list[AttentionRecorder]]:
    """The latents of all chunks; with ``record``, also the attention of each chunk of which nothing is given."""
    latents, recorders = [], []
    for chunk in chunks:
        recorder = AttentionRecorder() if record and chunk.conditioning is None else None
        latents.append(sample_chunk(stream, chunk, recorder))
        recorders += [] if recorder is None else [recorder]
    return torch.cat(latents, dim=2), recorders


@dataclass(frozen=True)
class VideoPlan:
    """One video: given latents, a prompt and a span of latent frames per chunk, a camera per latent frame."""

    conditioning: Float[Tensor, "1 channels conditioning height width"]
    prompts: Sequence[str]
    spans: Sequence[tuple[int, int]]
    cameras: Cameras
    event: InterruptionName | None = None
    event_chunks: range = range(0)


def plan_video(
    config: Config,
    backbone: WanBackbone,
    frames: Frames,
    prompts: Sequence[str],
    path: Cameras | None,
    chunks: int | None = None,
) -> VideoPlan:
    """A plan that begins with ``frames``: as many chunks as asked for, by default enough for the whole path.

    Raises `InputError` for no chunk beyond what is given, or for more prompts than chunks.
    """
    conditioning = backbone.encode_video(to_model(frames).to(backbone.device))
    given = conditioning.shape[2]
    wanted = config.latents if path is None else len(path.c2w)
    if chunks is None:
        chunks = 1 + max(0, math.ceil((wanted - config.first) / config.chunk))
    total = config.first + (chunks - 1) * config.chunk
    if total <= given:
        raise InputError(f"{chunks} chunks are {total} latent frames, and {given} are given; make more chunks.")
    if len(prompts) > chunks:
        raise InputError(f"There are {len(prompts)} prompts for {chunks} chunks; give at most one per chunk.")
    if path is None:
        one = level_camera(config.height, config.width, FOV_DEGREES)
        path = Cameras(one.c2w[None], one.intrinsics[None])
    rows = torch.arange(total).clamp(max=len(path.c2w) - 1)  # held at its end, and cut where there are fewer chunks
    starts = [0, *range(config.first, total, config.chunk)]
    return VideoPlan(
        conditioning=conditioning,
        prompts=[*prompts, *[prompts[-1]] * (chunks - len(prompts))],
        spans=list(zip(starts, [*starts[1:], total], strict=True)),
        cameras=Cameras(path.c2w[rows], path.intrinsics[rows]),
    )


def with_event(config: Config, plan: VideoPlan, event: InterruptionName, chunks: tuple[int, int]) -> VideoPlan:
    """The plan with an interruption in the chunks [start, stop); one that turns the camera turns that of the plan."""
    start, stop = chunks
    if not 0 < start < stop < len(plan.spans) or plan.spans[start][0] < plan.conditioning.shape[2]:
        raise InputError(
            f"--event-chunks {start} {stop}: give chunks after what is given, with one left at the end of "
            f"{len(plan.spans)} to be generated."
        )
    a, b = plan.spans[start][0], plan.spans[stop - 1][1]
    frame = torch.zeros(config.height, config.width, 3, dtype=torch.uint8)
    turned = interrupt_still(event, frame, STRIDE * (b - a), config.fps).c2w[STRIDE::STRIDE][: b - a]
    c2w = plan.cameras.c2w.clone()
    c2w[a:b] = c2w[a:b] @ turned.to(c2w)
    cameras = Cameras(c2w, plan.cameras.intrinsics)
    return replace(plan, cameras=cameras, event=event, event_chunks=range(start, stop))


@torch.no_grad()
def sample_video(
    config: Config,
    backbone: WanBackbone,
    positions: PMRoPE | None,
    plan: VideoPlan,
    seed: int,
    read: Read = read_everything,
) -> Frames:
    """The frames of a plan."""
    size, total = (plan.conditioning.shape[3], plan.conditioning.shape[4]), plan.spans[-1][1]
    cameras = Cameras(plan.cameras.c2w[None], plan.cameras.intrinsics[None])
    stream = open_stream(config, backbone, positions, [seed], cameras, size, total, read)
    latents, event = plan.conditioning[:, :, :0], None
    for i, (a, b) in enumerate(tqdm(plan.spans, desc="chunks")):
        conditioning = plan.conditioning[:, :, a:b]
        if i in plan.event_chunks:
            assert plan.event is not None
            first, last = plan.spans[plan.event_chunks[0]][0], plan.spans[plan.event_chunks[-1]][1]
            if event is None:
                event = _event_latents(config, backbone, latents, plan.event, last - first)
            conditioning = event[:, :, a - first : b - first]
        chunk = Chunk([plan.prompts[i]], b - a, conditioning if conditioning.shape[2] else None)
        latents = torch.cat([latents, sample_chunk(stream, chunk).to(latents)], dim=2)
    return from_model(backbone.decode_latents(latents)).cpu()


def _event_latents(
    config: Config, backbone: WanBackbone, latents: Tensor, event: InterruptionName, count: int
) -> Tensor:
    """Latents of an event over the last frame of ``latents``."""
    before = from_model(backbone.decode_latents(latents)).cpu()
    over = interrupt_still(event, before[-1], STRIDE * count, config.fps).video[1 : STRIDE * count + 1]
    both = torch.cat([before[-_VAE_PAST:], over])
    return backbone.encode_video(to_model(both).to(backbone.device))[:, :, -count:]
