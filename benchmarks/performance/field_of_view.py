"""Retrieval by field of view: a room of 100 000 frames against plain loops, a city of a million with the index."""

from __future__ import annotations

from benchmarks.fov import Settings, loops, measure
from benchmarks.performance.rows import Bench, Row


def rows(bench: Bench) -> list[Row]:
    """On the CPU in any case: the retriever scores frames there."""
    settings = Settings(rounds=3, queries=3)
    found, city = loops(settings), measure(settings.city_frames, 1000.0, settings)
    calls, floats = found["calls frame by frame / batched"], found["plain floats / batched"]
    call = city["hits of 20 with the index, ms"]
    return [
        Row(
            "100 000 frames: a Python loop that calls the library per frame / batched", calls, calls, calls, 200.0, True
        ),
        Row("100 000 frames: a Python loop in plain floats / batched", floats, floats, floats, 200.0, True),
        Row("1 000 000 frames in a city, hits of 20 with the index", call, call, call, 5.0, unit="ms"),
    ]
