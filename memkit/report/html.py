"""A self-contained HTML page that compares generation without and with memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.errors import InputError, MemkitError
from memkit.report.sheet import filmstrip
from memkit.video.frames import write_video
from memkit.video.player import SMALL, data_uri, mp4_uri

STRIP_FRAMES, STRIP_HEIGHT, STRIP_GAP = 17, 64, 2


@dataclass(frozen=True)
class HitClip:
    """A retrieved clip with the retriever's score."""

    id: str
    score: float
    caption: str
    frames: UInt8[Tensor, "time height width 3"]


@dataclass(frozen=True)
class Comparison:
    """One prompt, generated without and with memory from the same noise; ``query`` is the text of the retrieval.

    ``attention`` is the share of attention on memory, in [0, 1], by step and layer; ``even_share`` the share if all
    tokens got equal attention, None for a gated memory (``attention`` is then the share of memory in the output).
    ``note`` says what the comparison shows.
    """

    prompt: str
    query: str
    without: UInt8[Tensor, "time height width 3"]
    with_memory: UInt8[Tensor, "time height width 3"]
    hits: Sequence[HitClip]
    attention: Float[Tensor, "steps layers"]
    even_share: float | None
    note: str = ""


def render_report(
    title: str,
    intro: str,
    caveat: str,
    comparisons: Sequence[Comparison],
    settings: Mapping[str, str],
    fps: float,
    sections: Sequence[str] = (),
) -> str:
    """The self-contained page, with its videos, images and styles embedded.

    All texts are escaped, but ``sections``, which are HTML, one per card above the comparisons. ``fps`` is the frame
    rate of all videos. Raises `InputError` without a comparison.
    """
    if not comparisons:
        raise InputError("There is nothing to report; give at least one comparison.")
    most = max(float(c.attention.max()) if c.attention.numel() else 0.0 for c in comparisons)
    return render_page(
        "template.html.j2",
        fps,
        title=title,
        intro=intro,
        caveat=caveat,
        comparisons=comparisons,
        sections=sections,
        settings=settings,
        scale=max(most, 1e-6),  # one scale for all, so that prompts are comparable
        pixelated=max(comparisons[0].without.shape[1:3]) < SMALL,
    )


def render_page(template: str, fps: float, **values: Any) -> str:
    """A page from one of this package's templates, in which ``frames | video`` and ``frames | strip`` are data URIs."""
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError:
        raise MemkitError("The report needs jinja2; install it: pip install jinja2") from None
    here = resources.files("memkit.report")
    loader = FunctionLoader(lambda name: (here / name).read_text(encoding="utf-8"))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["video"] = lambda frames: video_uri(frames, fps)
    environment.filters["strip"] = strip_uri
    return environment.get_template(template).render(values)


def video_uri(frames: UInt8[Tensor, "time height width 3"], fps: float) -> str:
    """The video as a data URI; see `memkit.video.player.mp4_uri`."""
    return mp4_uri(frames, fps, write_video)


def strip_uri(frames: UInt8[Tensor, "time height width 3"]) -> str:
    """Frames side by side as a data URI, PNG."""
    data = io.BytesIO()
    filmstrip(frames, STRIP_FRAMES, min(STRIP_HEIGHT, frames.shape[1]), STRIP_GAP).save(data, "PNG", optimize=True)
    return data_uri("image/png", data.getvalue())
