"""Approximate against exact retrieval by text, with one thread and a process per engine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.performance.rows import Bench, Row
from benchmarks.retrieval import KINDS, Settings, measure


def rows(bench: Bench) -> list[Row]:
    """On the CPU in any case; 400 000 vectors of width 768, clustered and uniform."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            figures = measure(kind, Settings(rounds=5, folder=Path(folder)))["approximate"]
            what, size, opened = f"400 000 × 768, {kind}", figures["index / exact"], figures["seconds to open"]
            speed, recall = figures["queries per second, ratio"], figures["recall@5"]
            table += [
                Row(f"{what}: queries per second, approximate / exact", *speed, 10.0, True),
                Row(f"{what}: recall@5", *recall, 0.98, True),
                Row(f"{what}: time to open", opened, opened, opened, 1.0, unit="s"),
                Row(f"{what}: resident memory of the index, approximate / exact", size, size, size, 0.333),
            ]
    return table
