"""Small video files in any container, each frame of which tells its number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a.mp4": ("libx264", "mp4", {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
    "a.mov": ("mpeg4", "mov", {"movflags": "faststart"}),
    "a.webm": ("libvpx-vp9", "webm", {}),
    "live.webm": ("libvpx", "webm", {"live": "1"}),
    "a.mkv": ("libx264", "matroska", {}),
    "a.avi": ("mpeg4", "avi", {}),
    "a.ts": ("libx264", "mpegts", {}),
    "a.flv": ("libx264", "flv", {}),
    "a.gif": ("gif", "gif", {}),
    "a.ogv": ("libvpx", "ogg", {}),
}
"""Codec, format and options of each kind of file."""


def numbered_noise(count: int, height: int = 48, width: int = 64) -> Tensor:
    """Frames whose mean tells their number, and whose noise makes every packet large."""
    noise = torch.randint(-20, 21, (count, height, width, 3), generator=torch.Generator().manual_seed(0))
    return (noise + 30 + 3 * torch.arange(count)[:, None, None, None]).clamp(0, 255).byte()


def frame_numbers(frames: Tensor) -> list[int]:
    """The numbers of frames of `numbered_noise`."""
    return ((frames.float().mean((1, 2, 3)) - 30) / 3).round().int().tolist()


def write_file(
    path: Path,
    frames: Tensor,
    codec: str,
    format: str | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
    rate: int = 8,
) -> None:
    """Write frames at ``rate`` per second, or at times ``ticks`` in 1/1000 s."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = {"gif": "rgb8", "apng": "rgb24"}.get(codec, "yuv420p")
        stream.bit_rate = 4_000_000  # enough for the noise
        stream.options = codec_options or {}
        if ticks:
            stream.codec_context.time_base = Fraction(1, 1000)
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for i, image in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if ticks:
                frame.time_base, frame.pts = Fraction(1, 1000), ticks[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_kind(folder: Path, name: str, frames: Tensor) -> Path:
    """Write frames as one of `CONTAINERS`."""
    codec, format, options = CONTAINERS[name]
    write_file(folder / name, frames, codec, format, options)
    return folder / name
