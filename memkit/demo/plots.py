"""The plots of the demo's report as inline SVG, from the content of ``figures.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 250, 190, 34, 32, 24
"""Pixels of a plot, and its margins."""
CEILING = 3.0
"""Metres at the upper end of the plots of heights."""
GRAVITY = 20.0
"""m/s² at the ends of the plot of gravities."""
COLOURS = {"truth": "var(--ink)", "without": "var(--faint)", "right": "var(--accent)", "wrong": "var(--wrong)"}
LABELS = {
    "truth": "true",
    "without": "without memory",
    "right": "with clips of the planet",
    "wrong": "with clips of another planet",
}
STYLE = """
:root { --wrong: #c2601b; }
@media (prefers-color-scheme: dark) { :root { --wrong: #f0a05f; } }
.plots { display: flex; flex-wrap: wrap; gap: 12px; }
.plots svg { font: 11px system-ui, sans-serif; fill: var(--faint); }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 14px 0 6px; font-size: 13.5px; }
.key i { display: inline-block; width: 22px; height: 3px; margin-right: 7px; vertical-align: middle; }
"""


def height_plots(falls: Sequence[Mapping[str, Any]], fps: float) -> str:
    """One plot per planet: the median height of the body over the seeds, and the range of the middle half of them."""
    plots = []
    for planet in dict.fromkeys(fall["planet"] for fall in falls):
        rows = [fall for fall in falls if fall["planet"] == planet]
        plots.append(_height_plot(rows, fps))
    return f'<div class="plots">{"".join(plots)}</div>'


def gravity_plot(falls: Sequence[Mapping[str, Any]]) -> str:
    """The fitted gravity of each planet and seed against the true one; bars are medians."""
    draw = _Axes(520, 330, (0, GRAVITY), (0, GRAVITY), "true gravity, m/s²", "fitted gravity, m/s²")
    draw.axes([0, 5, 10, 15, 20], [0, 5, 10, 15, 20])
    draw.line([(0, 0), (GRAVITY, GRAVITY)], "var(--ink)", "5 4", 1)
    for planet in dict.fromkeys(fall["planet"] for fall in falls):
        rows = [fall for fall in falls if fall["planet"] == planet]
        for column, name in enumerate(("without", "right", "wrong")):
            x = rows[0]["truth"] + 0.55 * (column - 1)
            known = [row[name] for row in rows if row[name] is not None]
            for value in known:
                draw.dot(x, min(value, GRAVITY), COLOURS[name])
            if known:
                middle = min(float(np.median(known)), GRAVITY)
                draw.line([(x - 0.26, middle), (x + 0.26, middle)], COLOURS[name], "", 3)
        draw.text(rows[0]["truth"], GRAVITY, escape(planet), "middle", -8)
    return draw.svg("fitted gravity against the true one")


def key() -> str:
    """The legend of both plots."""
    items = (f'<span><i style="background:{COLOURS[name]}"></i>{label}</span>' for name, label in LABELS.items())
    return f'<div class="key">{"".join(items)}</div>'


def _height_plot(rows: Sequence[Mapping[str, Any]], fps: float) -> str:
    frames = len(rows[0]["heights"]["truth"])
    seconds = np.arange(frames) / fps
    draw = _Axes(WIDTH, HEIGHT, (0, float(seconds[-1])), (0, CEILING), "seconds", "height, m")
    draw.axes([0, 1, 2], [0, 1, 2, 3])
    for name in ("without", "wrong", "right"):
        low, middle, high = _quartiles([row["heights"][name] for row in rows])
        known = ~np.isnan(middle)
        there = [*zip(seconds[known], low[known], strict=True)]
        back = [*zip(seconds[known], high[known], strict=True)]
        draw.area(there + back[::-1], COLOURS[name])
        draw.line([*zip(seconds[known], middle[known], strict=True)], COLOURS[name], "", 2)
    draw.line([*zip(seconds, rows[0]["heights"]["truth"], strict=True)], COLOURS["truth"], "5 4", 1.6)
    title = f"{rows[0]['planet']}, {rows[0]['truth']:g} m/s²"
    draw.text(0, CEILING, escape(title), "start", -8)
    return draw.svg(f"height of the body on {title}")


def _quartiles(heights: Sequence[Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quartiles per frame over the seeds in which the body is seen; NaN where it is seen in none."""
    table = np.array(heights, dtype=float)
    columns = [column[~np.isnan(column)] for column in table.T]
    parts = [np.quantile(c, [0.25, 0.5, 0.75]) if len(c) else np.full(3, np.nan) for c in columns]
    low, middle, high = np.array(parts).T
    return low, middle, high


class _Axes:
    """Collects the elements of one plot, in the units of its axes."""

    def __init__(
        self, width: int, height: int, x: tuple[float, float], y: tuple[float, float], below: str, beside: str
    ) -> None:
        self.size, self.x, self.y, self.labels = (width, height), x, y, (below, beside)
        self.elements: list[str] = []

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point; points outside of the axes are moved to their edge."""
        width, height = self.size
        across = min(max((x - self.x[0]) / (self.x[1] - self.x[0]), 0), 1)
        up = min(max((y - self.y[0]) / (self.y[1] - self.y[0]), 0), 1)
        return LEFT + across * (width - LEFT - 10), height - BOTTOM - up * (height - BOTTOM - TOP)

    def points(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.place(x, y) for x, y in points))

    def line(self, points: Sequence[tuple[float, float]], colour: str, dashes: str, width: float) -> None:
        self.elements.append(
            f'<polyline points="{self.points(points)}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-dasharray="{dashes}" stroke-linejoin="round"/>'
        )

    def area(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        self.elements.append(f'<polygon points="{self.points(points)}" fill="{colour}" opacity="0.15"/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        px, py = self.place(x, y)
        self.elements.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.6" fill="{colour}" opacity="0.45"/>')

    def text(self, x: float, y: float, text: str, anchor: str, down: float = 0.0) -> None:
        px, py = self.place(x, y)
        self.elements.append(f'<text x="{px:.1f}" y="{py + down:.1f}" text-anchor="{anchor}">{text}</text>')

    def axes(self, across: Sequence[float], up: Sequence[float]) -> None:
        for value in across:
            self.text(value, self.y[0], f"{value:g}", "middle", 15)
        for value in up:
            px, py = self.place(self.x[0], value)
            self.elements.append(f'<text x="{px - 6:.1f}" y="{py + 4:.1f}" text-anchor="end">{value:g}</text>')
            self.line([(self.x[0], value), (self.x[1], value)], "var(--line)", "", 1)

    def svg(self, label: str) -> str:
        width, height = self.size
        below, beside = self.labels
        texts = (
            f'<text x="{width - 10}" y="{height - 4}" text-anchor="end">{below}</text>'
            f'<text transform="rotate(-90)" x="{-TOP}" y="10" text-anchor="end">{beside}</text>'
        )
        elements = "".join(self.elements)
        return (
            f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">{texts}{elements}</svg>'
        )
