"""The page of the leaderboard: tables, curves and verdicts, from nothing but the rows."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from memkit.files.atomic import write_text
from memkit.probes import MECHANISMS, PROBES, ProbeResult
from recipes.leaderboard.cells import VARIANTS, WITH_DEPTH, Cell
from recipes.leaderboard.claims import CLAIMS, MARGIN, SEEDS, Claim, interval
from recipes.leaderboard.plots import plot_curves

INTRODUCTION = """# Leaderboard

Every mechanism of memkit on every [memory probe](probes.md), with the same budget, and what the figures say about the
claims of three papers. `python -m recipes.leaderboard` measures what has no row yet in
[leaderboard.json](leaderboard.json), and writes this page and its plots from the rows. Models have {size} parameters,
and tasks are made for memory: figures say what a mechanism learns from a base that can retrieve, within {steps}
of {batch} clips, and nothing about the quality of videos.

`memkit probe my_module:MyMethod --leaderboard docs/leaderboard.json` runs a mechanism of your own and places it in the
table.
"""

STATE = """## How far this is

{done} rows, {seeds}. A cell without an interval has one seed. No verdict is given on fewer than {least} seeds.
{missing}"""

TABLE = """## Accuracy

Mean over the seeds, and its 95 % interval (Student's t). *Above chance* is the mean over the probes of
(accuracy − chance) / (1 − chance). *Held* is what is kept per sample of the past, and *ms* the time per chunk, beside
whatever else the machine did; both are means over the probes. Means are over those probes that have rows, and
mechanisms with rows of more probes come first. Below are the variants that claims need.
"""

DEPTH = """## With the depth of the past

Memories that take the depth of past frames, which the probe then gives, with the same controls.

"""

CONTROLS = """## Controls

Accuracy of the same trained models, mean over the probes: with their own past, without it, with that of another sample,
and with noise in place of it. Where a figure other than the first is above chance ({chance}), something leaks.
"""

CURVES = """## Load and distance

Loads and distances change in training from batch to batch. Each point is the accuracy with one value of one knob, on
new samples, with all other knobs at their defaults. Hollow points are values that do not occur in training. The grey
line is chance.
"""

VERDICTS = """## Claims

Each claim is a comparison of two cells. The difference is the first less the second, in pairs of the same seed, which
have the same training and test samples. By its 95 % interval, a claim of "more" (>) *holds* if the interval is above 0,
and *fails* if it is below {margin}. A claim of "as good" (≈) *holds* if the interval lies within ± {margin}, and
*fails* if it lies outside. Anything else is *not shown*; so is a claim whose cells are both at chance, unless it is a
comparison with no memory. There are {count} claims, so one verdict or two may be due to chance.
"""


def write_page(rows: Sequence[ProbeResult], out: Path) -> Path:
    """Write leaderboard.md, and the plots of all probes that have rows, to a folder; the path of the page.

    Raises `MemkitError` where matplotlib is missing, and `FileError` where the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for probe in _probes(rows):
        plot_curves(default_rows(rows, probe), probe, out / f"leaderboard-{probe}.png")
    page = out / "leaderboard.md"
    write_text(page, page_text(rows))
    return page


def page_text(rows: Sequence[ProbeResult]) -> str:
    """The page in Markdown; the same for the same rows in any order."""
    if not rows:
        return "# Leaderboard\n\nNothing is measured yet.\n"
    settings, probes = rows[0].settings, _probes(rows)
    chances = ", ".join(f"{probe} {default_rows(rows, probe)[0].chance:.3g}" for probe in probes)
    parts = [
        INTRODUCTION.format(size="0.53 M", steps=_steps(rows), batch=settings["batch"]),
        _state(rows),
        TABLE,
        accuracy_table(rows, [name for name in MECHANISMS if _has(rows, name)]),
        accuracy_table(rows, [name for name in VARIANTS if _has(rows, name)]),
        depth_table(rows),
        CONTROLS.format(chance=chances),
        control_table(rows),
        CURVES + "\n" + "\n\n".join(f"![{probe}](leaderboard-{probe}.png)" for probe in probes),
        VERDICTS.format(margin=MARGIN, count=len(CLAIMS)),
        claim_table(rows, CLAIMS),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _steps(rows: Sequence[ProbeResult]) -> str:
    """The number of training steps, and those of the probes that have another: "800 steps (law: 1600)"."""
    by_probe = {row.probe: row.steps for row in rows}
    usual = Counter(by_probe.values()).most_common(1)[0][0]
    others = ", ".join(f"{probe}: {steps}" for probe, steps in by_probe.items() if steps != usual)
    return f"{usual} steps ({others})" if others else f"{usual} steps"


def default_rows(rows: Sequence[ProbeResult], probe: str) -> list[ProbeResult]:
    """The rows of a probe with its default knobs."""
    return [row for name in {row.mechanism: None for row in rows} for row in Cell(probe, name).rows(rows)]


def accuracy_table(rows: Sequence[ProbeResult], mechanisms: Sequence[str]) -> str:
    """One row per mechanism, the best first; those with fewer probes come last."""
    if not mechanisms:
        return ""
    probes, lines = _probes(rows), []
    for name in mechanisms:
        cells = {probe: found for probe in probes if (found := Cell(probe, name).rows(rows))}
        every = [row for found in cells.values() for row in found] or [row for row in rows if row.mechanism == name]
        above = [_mean(found, _above_chance) for found in cells.values()]
        order = len(cells), statistics.fmean(above) if above else -math.inf
        shown = [_cell([row.accuracy for row in cells[probe]]) if probe in cells else "–" for probe in probes]
        lines.append((order, [f"`{name}`", *shown, f"{order[1]:.2f}" if above else "–", *_costs(every)]))
    lines.sort(key=lambda line: line[0], reverse=True)
    chance = [f"{default_rows(rows, probe)[0].chance:.3g}" for probe in probes]
    return _markdown(
        ["mechanism", *probes, "above chance", "held", "ms"],
        [*(cells for _, cells in lines), ["*chance*", *chance, "0.00", "", ""]],
    )


def control_table(rows: Sequence[ProbeResult]) -> str:
    """Per mechanism: the mean over its rows with the default knobs."""
    known = [row for probe in _probes(rows) for row in default_rows(rows, probe)]
    lines = []
    for name in (*MECHANISMS, *VARIANTS):
        if own := [row for row in known if row.mechanism == name]:
            lines.append([f"`{name}`", *_with_controls(own)])
    return _markdown(["mechanism", *_CONTROLLED], lines)


def depth_table(rows: Sequence[ProbeResult]) -> str:
    """The section of the cells with depth; empty where none has a row."""
    lines = []
    for cell in WITH_DEPTH:
        if own := cell.rows(rows):
            accuracy = _cell([row.accuracy for row in own])
            lines.append([f"{cell.probe}: `{cell.mechanism}`", accuracy, *_with_controls(own)[1:], *_costs(own)])
    return DEPTH + _markdown(["probe and mechanism", *_CONTROLLED, "held", "ms"], lines) if lines else ""


def claim_table(rows: Sequence[ProbeResult], claims: Sequence[Claim]) -> str:
    """One row per claim."""
    lines = []
    for claim in claims:
        found, sign = claim.differences(rows), ">" if claim.relation == "more" else "≈"
        cells = f"{claim.better.probe}: {claim.better} {sign} {claim.than}"
        verdict = claim.verdict(rows)
        count = "" if len(found) >= SEEDS else f" ({len(found)} seed{'' if len(found) == 1 else 's'})"
        lines.append([claim.text, claim.source, cells, _cell(found, signed=True), f"**{verdict}**{count}"])
    return _markdown(["claim", "source", "cells", "difference", "verdict"], lines)


def _state(rows: Sequence[ProbeResult]) -> str:
    counts = {(probe, name): len(Cell(probe, name).rows(rows)) for probe in PROBES for name in MECHANISMS}
    few = sum(0 < count < SEEDS for count in counts.values())
    none = sum(count == 0 for count in counts.values())
    missing = f"Of the {len(counts)} cells of the first table, {few} have fewer than {SEEDS} seeds"
    missing += f" and {none} have none yet." if none else "."
    seeds = sorted({row.seed for row in rows})
    return STATE.format(
        done=len(rows),
        seeds="seed " + str(seeds[0]) if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds)),
        least=SEEDS,
        missing=missing if few or none else "",
    )


def _probes(rows: Sequence[ProbeResult]) -> list[str]:
    return [probe for probe in PROBES if default_rows(rows, probe)]


def _has(rows: Sequence[ProbeResult], mechanism: str) -> bool:
    return any(row.mechanism == mechanism for row in rows)


def _above_chance(row: ProbeResult) -> float:
    return (row.accuracy - row.chance) / (1 - row.chance)


def _mean(rows: Sequence[ProbeResult], value: Callable[[ProbeResult], float]) -> float:
    return statistics.fmean(map(value, rows))


_CONTROLLED: dict[str, Callable[[ProbeResult], float]] = {
    "own past": lambda row: row.accuracy,
    "without": lambda row: row.control_accuracy,
    "of another": lambda row: row.wrong_accuracy,
    "noise": lambda row: _mean_of_questions(row.conditions["random"]),
}


def _with_controls(rows: Sequence[ProbeResult]) -> list[str]:
    return [f"{_mean(rows, value):.2f}" for value in _CONTROLLED.values()]


def _costs(rows: Sequence[ProbeResult]) -> list[str]:
    """What is held, and the time per chunk."""
    held, seconds = _mean(rows, lambda row: row.bytes), _mean(rows, lambda row: row.seconds)
    return [f"{held / 1000:.1f} kB", f"{seconds * 1000:.0f}"]


def _mean_of_questions(kinds: dict[str, float]) -> float:
    return statistics.fmean(kinds.values())


def _cell(values: Sequence[float], signed: bool = False) -> str:
    """A mean over seeds with its interval, "–" without values."""
    if not values:
        return "–"
    sign = "+" if signed else ""
    mean, low, high = interval(values)
    return f"{mean:{sign}.2f}" + ("" if math.isnan(low) else f" [{low:{sign}.2f}, {high:{sign}.2f}]")


def _markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *lines))
