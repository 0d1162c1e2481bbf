"""What the page shows of a `Walk`, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from memkit.app.html import figure, group, percent
from memkit.app.walk import Chunk, Walk
from memkit.worlds.constants import COLOURS
from memkit.worlds.event import FPS
from memkit.worlds.gallery import DISTANCE, HALF_WIDTH, Gallery
from memkit.worlds.paths import Pose

TITLES = ("The truth", "With memory", "Without memory")
_WORDS = {"left": "turn left", "half left": "half left", "right": "turn right", "half right": "half right",
          "forward": "step forward", "wait": "stand still"}  # fmt: skip


def now_html(walk: Walk, chunk: Chunk | None) -> str:
    """The newest step, which plays once and stops where the camera is now; before any, the view to begin with."""
    videos = (walk.truth[-1:],) * 3 if chunk is None else (chunk.truth, chunk.with_memory, chunk.without)
    figures = [figure(video, title, FPS) for video, title in zip(videos, TITLES, strict=True)]
    return group(figures, "the newest step", once=True) + _said(chunk)


def _said(chunk: Chunk | None) -> str:
    if chunk is None:
        return (
            '<p class="said">This view was given to both videos. <b>Try: turn left, then turn right.</b> What comes '
            "back into view should look as it did before.</p>"
        )
    with_memory, without = (scores.again for scores in chunk.scores)
    if math.isnan(with_memory) and math.isnan(without):
        return '<p class="said">No panel came back into view in this step: all are new, or were in the last frame.</p>'
    return (
        '<p class="said">Panels that came back into view and have the colour they had before: '
        f"<b>{_share(with_memory)} with memory</b>, {_share(without)} without "
        f"({percent(1 / len(COLOURS))} by chance).</p>"
    )


def _share(value: float) -> str:
    return "none came back" if math.isnan(value) else percent(value)


def whole_html(walk: Walk, chunks: Sequence[Chunk]) -> str:
    """The way so far from above, the list of steps, and the whole walk."""
    rows = "".join(f"<li>{_WORDS[chunk.move]}: {_both(chunk)}</li>" for chunk in chunks)
    steps = f'<div><h3>Steps</h3><ol class="steps">{rows}</ol></div>' if rows else ""
    above = f'<div class="above">{map_svg(walk.gallery, walk.pose)}{steps}</div>'
    videos = (walk.truth, walk.with_memory, walk.without)
    given = f"first {(walk.seen - 1) / FPS:g} s given"
    figures = [figure(v, t, FPS, given) for v, t in zip(videos, TITLES, strict=True)]
    title = f"<h3>The whole walk, {(len(walk.truth) - 1) / FPS:g} s</h3>"
    return above + title + group(figures, "the whole walk", "row small")


def _both(chunk: Chunk) -> str:
    with_memory, without = (scores.again for scores in chunk.scores)
    if math.isnan(with_memory) and math.isnan(without):
        return "nothing came back"
    return f"{_share(with_memory)} with memory, {_share(without)} without"


def map_svg(gallery: Gallery, pose: Pose) -> str:
    """The gallery from above: its panels, and the camera's field of view of 90°."""
    x, y, yaw = pose
    parts = []
    for panel in gallery.panels:
        (cx, cy, _), along = panel.centre, panel.angle + math.pi / 2
        dx, dy = HALF_WIDTH * 0.8 * math.cos(along), HALF_WIDTH * 0.8 * math.sin(along)
        colour = "rgb({:.0f} {:.0f} {:.0f})".format(*(255 * c for c in COLOURS[panel.colour]))
        parts.append(
            f'<line x1="{cx - dx:.2f}" y1="{dy - cy:.2f}" x2="{cx + dx:.2f}" y2="{-dy - cy:.2f}" stroke="{colour}"/>'
        )
    corners = [(x + DISTANCE * math.cos(yaw + turn), y + DISTANCE * math.sin(yaw + turn))
               for turn in torch.linspace(-math.pi / 4, math.pi / 4, 9).tolist()]  # fmt: skip
    wedge = " ".join(f"{a:.2f},{-b:.2f}" for a, b in [(x, y), *corners])
    return (
        '<svg class="room" viewBox="-5 -5 10 10" role="img" aria-label="the room from above, with the field of view">'
        f'<polygon points="{wedge}"/><g stroke-width="0.5">{"".join(parts)}</g>'
        f'<circle cx="{x:.2f}" cy="{-y:.2f}" r="0.22"/></svg>'
    )
