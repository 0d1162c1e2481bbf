"""Plots of the leaderboard: accuracy over the knobs of a probe."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memkit.errors import MemkitError
from memkit.files.atomic import atomic_write
from memkit.probes import MECHANISMS, ProbeResult, make_probe

_MARKERS = "os^Dv<>PX*"
_NAMES = {
    ("recall", "facts"): "load: places seen",
    ("recall", "distance"): "distance: empty frames since",
    ("occlusion", "walls"): "of 4 frames in view, those behind walls",
    ("evolve", "hidden"): "distance: frames of the interruption",
    ("evolve", "gaps"): "further frames of which nothing is left",
    ("evolve", "dropped"): "of 6 frames seen, those lost",
    ("evolve", "noise"): "noise level of the past",
    ("law", "clips"): "reference clips",
    ("switch", "facts"): "load: places that changed",
    ("switch", "distance"): "distance: empty frames since",
}


def plot_curves(rows: Sequence[ProbeResult], probe: str, file: Path) -> None:
    """Write a PNG with a panel per knob and a line per mechanism: means over the seeds; hollow beyond training.

    Raises `MemkitError` where matplotlib is missing.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MemkitError("The plots of the leaderboard need matplotlib: pip install 'memkit[plots]'.") from error
    ranges = make_probe(probe).ranges
    figure = Figure(figsize=(2.0 + 3.2 * len(ranges), 3.2), dpi=90, layout="constrained", facecolor="white")
    panels: Any = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    for panel, (knob, values) in zip(panels, ranges.items(), strict=True):
        for number, name in enumerate(MECHANISMS):
            if of_mechanism := [row for row in rows if row.mechanism == name]:
                trained = [_number(value) for value in values.train]
                look = {"color": colormaps["tab20"]((2 * number + number // 10) % 20), "marker": _MARKERS[number % 10]}
                _line(panel, of_mechanism, knob, trained, look)
        panel.axhline(rows[0].chance, color="#bbbbbb", linewidth=1)
        panel.set(xlabel=_NAMES.get((probe, knob), knob), ylim=(0, 1.03), xticks=[_number(x) for x in values.test])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"{probe}: accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    with atomic_write(file) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _line(panel: Any, rows: Sequence[ProbeResult], knob: str, trained: list[float], look: dict[str, Any]) -> None:
    values = [_number(value) for value, _ in rows[0].curves[knob]]
    accuracy = [statistics.fmean(row.curves[knob][i][1] for row in rows) for i in range(len(values))]
    look |= {"linewidth": 1.2, "markersize": 5, "alpha": 0.9}
    panel.plot(values, accuracy, label=rows[0].mechanism, **look)
    beyond = [i for i, value in enumerate(values) if value not in trained]
    look |= {"linestyle": "none", "markerfacecolor": "white", "alpha": 1.0}
    panel.plot([values[i] for i in beyond], [accuracy[i] for i in beyond], **look)


def _number(value: Any) -> float:
    return value[0] if isinstance(value, list | tuple) else value
