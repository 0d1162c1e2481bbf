"""Texts on the videos of the demo, for the report, the contact sheet and the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import memkit


def video_tokens(backbone: memkit.WanBackbone, size: Sequence[int]) -> int:
    """Number of tokens of a video whose latents have this size (time, height, width)."""
    time, height, width = (n // p for n, p in zip(size, backbone.transformer.config.patch_size, strict=True))
    return time * height * width


def what_to_see(prompt: str) -> str:
    """How long a fall lasts on the planet that the prompt names, which the model does not know."""
    from memkit.worlds.constants import PLANETS

    for planet, gravity in PLANETS["test"].items():
        if re.search(rf"\b{planet}\b", prompt, re.IGNORECASE):
            return f"On {planet} ({gravity:g} m/s²) a fall from two metres lasts {(4 / gravity) ** 0.5:.1f} s."
    return ""


def rows(comparison: Any) -> list[tuple[str, Any]]:
    rows = [("without memory", comparison.without), ("with memory", comparison.with_memory)]
    return rows + [(f"best hit: {hit.id}", hit.frames) for hit in comparison.hits[:1]]


def print_summary(comparisons: Sequence[Any]) -> None:
    print(f"{'best hit':<16}{'score':>6}{'attention on memory':>22}{'pixels changed by':>20}  prompt")
    for c in comparisons:
        changed = (c.with_memory.float() - c.without.float()).abs().mean().item() / 255
        best = c.hits[0]
        print(f"{best.id:<16}{best.score:>6.3f}{c.attention.mean().item():>21.1%} {changed:>19.1%}  {c.prompt}")


def falls_said(figures: Mapping[str, Any]) -> str:
    """What the content of ``figures.json`` says of gravity, in one sentence per condition."""
    summary = figures["summary"]
    named = {"without": "without memory", "right": "with clips of the planet", "wrong": "with clips of another planet"}
    parts = []
    for name, label in named.items():
        error, together = summary[name]["error"], summary[name]["correlation"]
        parts.append(
            f"{label}, fitted gravity is off by {_interval(error, 1)} m/s², and its correlation with the truth is "
            f"{_interval(together, 2)}"
        )
    shown = _interval(summary["wrong_shown"]["correlation"], 2)
    said = "; ".join(parts)
    return f"{said[0].upper()}{said[1:]}, with the planet of those clips {shown}."


def _interval(values: Sequence[float | None], digits: int) -> str:
    if values[0] is None:
        return "not defined"
    value, low, high = values
    return f"{value:.{digits}f}" + ("" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]")
