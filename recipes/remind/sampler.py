"""Sample videos chunk by chunk with the settings of a run, after conditioning frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras, level_camera
from memkit.errors import InputError
from memkit.injectors import AttentionRecorder, frame_bytes
from memkit.positions import PMRoPE
from memkit.streaming import Stream, StreamConfig, VideoPlan, read_everything
from memkit.streaming.read_policies import Read
from memkit.video import to_model
from memkit.worlds.paths import FOV_DEGREES
from recipes.remind.presets import Config

Frames = UInt8[Tensor, "frames height width 3"]
Latents = Float[Tensor, "batch channels frames height width"]


class Chunk(NamedTuple):
    """One chunk of a batch of videos: prompts, number of latent frames, latents of the conditioning frames."""

    prompts: Sequence[str]
    frames: int
    conditioning: Latents | None = None


def load_cameras(config: Config, backbone: WanBackbone, folder: Path) -> PMRoPE:
    """Load the PM-RoPE of the run in ``folder``. Raises `InputError` if it has another mode."""
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
    """A stream of one video per seed, with ``frames`` latent frames of ``size`` (height, width).

    ``cameras`` [B or 1, frames] are those of the whole video; they are not used without PM-RoPE.
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


def sample_chunks(
    stream: Stream, chunks: Sequence[Chunk], record: bool = False
) -> tuple[Latents, list[AttentionRecorder]]:
    """The latents of all chunks; with ``record``, also the attention of each chunk without conditioning frames."""
    latents, recorders = [], []
    for chunk in chunks:
        recorder = AttentionRecorder() if record and chunk.conditioning is None else None
        conditioning = None if chunk.conditioning is None else chunk.conditioning.to(stream.backbone.device)
        latents.append(stream.generate(chunk.prompts, conditioning, chunk.frames, recorder=recorder))
        recorders += [] if recorder is None else [recorder]
    return torch.cat(latents, dim=2), recorders


def plan_video(
    config: Config,
    backbone: WanBackbone,
    frames: Frames,
    prompts: Sequence[str],
    path: Cameras | None,
    chunks: int | None = None,
) -> VideoPlan:
    """A plan that begins with ``frames``; without a ``path`` it is as long as a clip, with a static camera."""
    latents = config.latents if path is None else None
    if path is None:
        one = level_camera(config.height, config.width, FOV_DEGREES)
        path = Cameras(one.c2w[None], one.intrinsics[None])
    conditioning = backbone.encode_video(to_model(frames).to(backbone.device))
    return VideoPlan.of(conditioning, prompts, path, config.first, config.chunk, chunks=chunks, latents=latents)


def sample_video(
    config: Config,
    backbone: WanBackbone,
    positions: PMRoPE | None,
    plan: VideoPlan,
    seed: int,
    read: Read = read_everything,
) -> Frames:
    """The frames of a plan."""
    *_, height, width = plan.conditioning.shape
    cameras, total = Cameras(plan.cameras.c2w[None], plan.cameras.intrinsics[None]), plan.spans[-1][1]
    return plan.sample(open_stream(config, backbone, positions, [seed], cameras, (height, width), total, read))
