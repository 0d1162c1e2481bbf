"""Videos inside a page: as data URIs, and as an HTML element for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxtyping import UInt8
from torch import Tensor

_LOWEST, _HIGHEST = 224, 480  # pixels of the height on the page
SMALL = 256
"""Pixels of the wider side; smaller videos are encoded at twice their size, and shown enlarged."""

Write = Callable[[Path, Tensor, float], None]
"""`memkit.video.write_video`, which this file cannot import."""


def data_uri(kind: str, data: bytes) -> str:
    """The content of a file of a media type, such as "image/png", as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def mp4_uri(frames: UInt8[Tensor, "time height width 3"], fps: float, write: Write) -> str:
    """The video as a data URI, mp4 with h264.

    Browsers require 4:2:0, which halves the resolution of colour. Small videos are enlarged twofold first, so that each
    pixel keeps its own colour.
    """
    if max(frames.shape[1:3]) < SMALL:
        frames = frames.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        write(file, frames, fps)
        return data_uri("video/mp4", file.read_bytes())


def video_html(frames: UInt8[Tensor, "time height width 3"], fps: float, write: Write) -> str:
    """A ``<video>`` that plays in a loop, with the mp4 inside it."""
    height = min(max(frames.shape[1], _LOWEST), _HIGHEST)
    style = f"height:{height}px;max-width:100%;image-rendering:pixelated"
    return f'<video controls loop autoplay muted style="{style}" src="{mp4_uri(frames, fps, write)}"></video>'
