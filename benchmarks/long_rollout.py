"""A long rollout within a budget: bytes of history, memory of the process, and seconds, chunk by chunk.

    python -m benchmarks.long_rollout --out out/long_rollout.json

The camera of tiny-wan with untrained query layers turns in circles; the video has no meaning, but memory use is that of
a trained model. Once the budget is reached, the history and the memory of the process stay flat, and so does the time
per chunk, since the context no longer grows. The video is written to disk as it is generated.
"""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.common import looking, report
from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.injectors import QueryLayers, QueryLayersConfig
from memkit.rollout import LearnedContext, Rollout
from memkit.video import VideoWriter


@dataclass(frozen=True)
class Settings:
    """Sizes."""

    chunks: int = 40
    budget: int = 200_000
    """Bytes of latents and their cameras in the history."""
    steps: int = 2
    """Denoising steps per chunk."""
    threads: int = 2
    out: Path = Path("out/long_rollout.json")


def main(settings: Settings) -> None:
    """Generate the chunks and print the figures of each."""
    torch.set_num_threads(settings.threads)
    backbone = WanBackbone.tiny(torch.float32)
    backbone.pipeline().set_progress_bar_config(disable=True)
    query = QueryLayers(QueryLayersConfig.tiny())
    form = backbone.video_format
    rollout = Rollout(
        backbone, LearnedContext(query, 45), seeds=[0], budget=settings.budget, steps=settings.steps, guidance_scale=1.0
    )
    stride, held, peak, seconds = form.num_frames - 1, [], [], []
    cameras = turning(settings.chunks * stride + 1)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(settings.out.with_suffix(".mp4"), form.fps) as video:
        first = torch.full((1, 1, form.height, form.width, 3), 128, dtype=torch.uint8)
        rollout.observe(first, part(cameras, 0, 1))
        for chunk in range(settings.chunks):
            start = time.perf_counter()
            frames = rollout.generate(["a room"], part(cameras, chunk * stride, (chunk + 1) * stride + 1))
            video.add(frames[0, 1:])
            seconds.append(round(time.perf_counter() - start, 2))
            held.append(rollout.history.nbytes)
            peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)  # KiB on Linux
    full = held.index(max(held))
    result = {
        "bytes of history, by chunk": held,
        "peak MiB of the process so far, by chunk": peak,
        "seconds, by chunk": seconds,
        "the budget is reached at chunk": full,
        "MiB by which the process grew from there to the end": peak[-1] - peak[full],
    }
    report(result, settings, settings.out)


def turning(frames: int) -> Cameras:
    """Cameras that turn on the spot, by 5° per frame."""
    yaw = math.radians(5) * torch.arange(frames, dtype=torch.float64)
    return looking(torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64), yaw, 70.0)


def part(cameras: Cameras, start: int, end: int) -> Cameras:
    """Cameras of frames of one video [1, T]."""
    return Cameras(cameras.c2w[None, start:end], cameras.intrinsics[None, start:end])


if __name__ == "__main__":
    main(tyro.cli(Settings))
