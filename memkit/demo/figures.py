"""The figures of the demo: what ``figures.json`` holds, and what they say in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memkit.files.json_files import write_json
from memkit.metrics.bootstrap import Interval, bootstrap, correlation


@dataclass(frozen=True)
class Fall:
    """The falls of one planet and seed. Gravities in m/s² are None where no fall could be fitted.

    ``without``, ``right`` and ``wrong`` are the fitted gravities without memory, with clips of the planet, and with
    those of ``wrong_planet``. ``heights`` are those of the body's centre per frame in metres, under these names and
    "truth".
    """

    planet: str
    seed: int
    truth: float
    without: float | None
    right: float | None
    wrong: float | None
    wrong_planet: str
    wrong_truth: float
    heights: dict[str, list[float | None]]


def write_figures(file: Path, falls: Sequence[Fall], gallery: Mapping[str, Any] | None) -> dict[str, Any]:
    """Write ``figures.json``, and return its content.

    ``gallery`` is the content of the gallery; without one, the accuracy of its panels is None.
    """
    means = gallery["mean"] if gallery else {}
    panels = {name: means.get(f"{name} memory", {}).get("returned") for name in ("with", "without")}
    content = {
        "falls": [asdict(fall) for fall in falls],
        "summary": summary(falls),
        "panel_accuracy": panels,
        "gallery": gallery,
    }
    write_json(file, content)
    return content


def summary(falls: Sequence[Fall]) -> dict[str, Any]:
    """Error of gravity and its correlation with the truth, with 95 % bootstrap intervals over all planets and seeds.

    "wrong_shown" compares the falls with wrong clips with the planet that these show.
    """
    pairs = {
        "without": [(fall.without, fall.truth) for fall in falls],
        "right": [(fall.right, fall.truth) for fall in falls],
        "wrong": [(fall.wrong, fall.truth) for fall in falls],
        "wrong_shown": [(fall.wrong, fall.wrong_truth) for fall in falls],
    }
    return {name: _agreement(values) for name, values in pairs.items()}


def _agreement(pairs: Sequence[tuple[float | None, float]]) -> dict[str, Any]:
    known = np.array([pair for pair in pairs if pair[0] is not None], dtype=float).reshape(-1, 2)
    error = bootstrap(np.mean, np.abs(known[:, 0] - known[:, 1]))
    return {
        "fitted": len(known),
        "of": len(pairs),
        "error": _finite(error),
        "correlation": _finite(bootstrap(correlation, known[:, 0], known[:, 1])),
    }


def _finite(interval: Interval) -> list[float | None]:
    """Value, low and high."""
    return [None if np.isnan(x) else round(float(x), 3) for x in interval]
