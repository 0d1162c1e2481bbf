"""The page of the performance table, written from the rows that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.performance.rows import Row

TITLES = {
    "memory_tokens": "Memory tokens in self-attention",
    "kv_cache": "KV cache",
    "teacher_forcing": "Teacher forcing",
    "query_layers": "Query layers",
    "encoder_training": "Training an encoder",
    "features": "Features of clips, cached beside a bank",
    "bank_build": "Building a bank",
    "text_retrieval": "Retrieval by text",
    "field_of_view": "Retrieval by field of view",
    "imports": "Imports",
    "scaling": "Scaling",
}
"""Headings of the subjects, in the order of the page."""

CPU_ONLY = ("bank_build", "text_retrieval", "field_of_view", "imports")
"""Subjects that a GPU would not change."""

INTRODUCTION = """# Performance

What memory costs, as ratios that one command measures: `make bench`. All variants of a row take turns in one process,
so that other load affects them alike. A figure is a ratio of medians with its 95 % interval (bootstrap over rounds).
The *limit* is the same ratio by arithmetic alone, of operations or bytes, and *of limit* is the figure divided by it.
A row without a target states what is measured.

`make bench` writes [performance.json](performance.json) and this page; `python -m benchmarks.performance --only
kv_cache` measures single subjects anew. With a CUDA device it also measures time, peak memory and achieved throughput
there, in less than 8 minutes.
"""


NOTES = """## How the figures came about

Keys and values of several groups are joined as [batch, heads, tokens, width], which attention on a CPU reads faster
than [batch, tokens, heads, width], by more than the copy costs: so attention to memory can take less than the bare
attention that it is compared with, which reads the projections as they are. Teacher forcing embeds the timestep of a
frame once for all its tokens, which the dense pass, as stock Wan, does for each; the limit counts neither.

## What the misses consist of

By the profiler of torch, on one thread of a CPU:

- *Ten weighted tokens* add a few hundredths of the time that a thousand do, which is less than a block varies: another
  run of the same code gave −0.005 [−0.05, 0.04].
- *A cached step* has a full cache, so the cached keys and values are copied beside the chunk's own: 6 % of its time. In
  a process of its own, without the rollout before it, the same row gave 1.02 and 1.04.
- *A rollout from a cache*: no copy of the cache is left; the chunk is written behind the cached frames, and attention
  reads both in place. Three things are above the limit, which counts operations alone: matrix products over the 432
  tokens of a chunk run at 0.85 of the speed of those over up to 3024, what does not depend on the tokens (embeddings
  of the text and of the timestep) is computed in each of 77 passes as in each of 70, and checks of what is written.
- *Imports*: 0.24 s of the time are one full garbage collection by Python over the objects of torch and diffusers, which
  the next 8000 objects of any program set off; 0.05 s are the files of memkit.
- *A plain loop for fields of view* clips polygons in 3 µs per frame; 200 times as fast would be 16 ns.
- *Features of FrequencyEncoder* are the memory tokens themselves, 252 per clip; fewer need a larger patch.
"""


def page_text(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The page, of ``{device: {"machine": text, "subjects": {name: [fields of a row]}}}``."""
    parts = [INTRODUCTION]
    for device, found in measured.items():
        parts.append(f"## {'On a GPU' if device == 'cuda' else 'On a CPU'}\n\nMachine: {found['machine']}.\n")
        for name, title in TITLES.items():
            if name in found["subjects"]:
                parts.append(f"### {title}\n\n{_table([Row(**fields) for fields in found['subjects'][name]])}")
    return "\n".join([*parts, NOTES])


def _table(rows: Sequence[Row]) -> str:
    head = ["claim", "figure, 95 %", "target", "limit", "of limit"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        unit = f" {row.unit}" if row.unit else ""
        sign = "≥" if row.at_least else "≤"
        missed = {None: "", True: ", met", False: ", **missed**"}[row.met]
        interval = "" if row.low == row.high else f" [{number(row.low)}, {number(row.high)}]"
        cells = [
            row.claim,
            f"{number(row.value)}{unit}{interval}",
            "" if row.target is None else f"{sign} {number(row.target)}{unit}{missed}",
            "" if row.limit is None else f"{number(row.limit)}, {row.limit_from}",
            "" if not row.limit else f"{row.value / row.limit:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    times = dict(pair for row in rows for pair in row.details.items())
    if times:
        lines += ["", "Medians: " + "; ".join(f"{name} {_figures(figures)}" for name, figures in times.items()) + "."]
    return "\n".join(lines) + "\n"


def _figures(figures: Mapping[str, float]) -> str:
    names = {"ms": "ms", "s": "s", "peak_mb": "MB at most", "gb_per_s": "GB/s", "gflop_per_s": "Gflop/s"}
    return ", ".join(f"{number(value)} {names.get(name, name)}" for name, value in figures.items())


def number(value: float) -> str:
    """With three significant digits, and without an exponent."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
