"""Pieces of HTML that both tabs are made of; all texts are escaped."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from memkit.report.html import video_uri
from memkit.video.player import data_uri


def image(frame: UInt8[Tensor, "height width 3"], label: str) -> str:
    """A frame as an image."""
    data = io.BytesIO()
    Image.fromarray(frame.contiguous().numpy()).save(data, "PNG")
    return f'<img src="{data_uri("image/png", data.getvalue())}" alt="{escape(label)}">'


def player(frames: UInt8[Tensor, "frames height width 3"], label: str, fps: float) -> str:
    """A video; a single frame is shown as an image."""
    if len(frames) == 1:
        return image(frames[0], label)
    source = video_uri(frames, fps)
    return f'<video src="{source}" aria-label="{escape(label)}" autoplay loop muted playsinline></video>'


def figure(frames: UInt8[Tensor, "frames height width 3"], title: str, fps: float, note: str = "") -> str:
    """A video below its title."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<figure><figcaption>{escape(title)}{small}</figcaption>{player(frames, title, fps)}</figure>"


def group(figures: Sequence[str], label: str, kind: str = "row", once: bool = False) -> str:
    """Videos side by side that play in step; with ``once`` they stop at the end."""
    play = "once" if once else "loop"
    body = f'<div class="{kind}">{"".join(figures)}</div>'
    return f'<div data-play="{play}" role="group" aria-label="{escape(label)}">{body}</div>'


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
