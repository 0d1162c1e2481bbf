"""A video as an HTML element, for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxtyping import UInt8
from torch import Tensor

_LOWEST, _HIGHEST = 224, 480  # pixels of the height on the page
_SMALL = 256  # pixels of the wider side, below which a video is encoded at twice its size


def video_html(
    frames: UInt8[Tensor, "time height width 3"],
    fps: float,
    write: Callable[[Path, Tensor, float], None],
) -> str:
    """A ``<video>`` that plays in a loop, with the mp4 inside it, which ``write`` (`write_video`) encodes.

    Small videos are enlarged twofold before, since mp4 has colour at half the resolution.
    """
    height = min(max(frames.shape[1], _LOWEST), _HIGHEST)
    if max(frames.shape[1:3]) < _SMALL:
        frames = frames.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        write(file, frames, fps)
        data = base64.b64encode(file.read_bytes()).decode()
    style = f"height:{height}px;max-width:100%;image-rendering:pixelated"
    return f'<video controls loop autoplay muted style="{style}" src="data:video/mp4;base64,{data}"></video>'
