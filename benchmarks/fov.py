"""Speed of retrieval by field of view: the sector rule over all frames, and with the index.

    python -m benchmarks.fov --out out/fov.json

A room: 100 000 frames at random positions in 10 m × 10 m, all within reach of the query. A city: a million frames at
random positions in 1 km × 1 km. Both are scored without and with the index, which must give the same overlaps. Figures
are medians over queries of the best of the rounds, in CPU milliseconds of the process, which are robust to other load.

Measured on one of two virtual AMD EPYC cores, torch 2.15, both busy with other work:

    frames                     all scored   overlap, indexed   20 hits, indexed   building the retriever
    100 000, 10 m × 10 m       27 ms        32 ms              38 ms              0.2 s
    1 000 000, 1 km × 1 km     278 ms       3.0 ms (1/92)      2.6 ms             2 s

Where all frames are within reach, the index has nothing to skip and costs 5 ms.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.common import best_of, looking, report
from memkit.cameras import Cameras
from memkit.retrievers import FOVRetriever, Sector


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    room_frames: int = 100_000
    city_frames: int = 1_000_000
    queries: int = 5
    rounds: int = 5
    threads: int = 1
    seed: int = 0
    out: Path = Path("out/fov.json")


def walkers(count: int, metres: float, generator: torch.Generator) -> Cameras:
    """Level cameras at random positions on a square, with random headings."""
    x, y, share = torch.rand(3, count, generator=generator, dtype=torch.float64)
    eye = torch.stack([x * metres, y * metres, torch.full_like(x, 1.5)], -1)
    yaw = share * 2 * math.pi
    return looking(eye, yaw)


def measure(count: int, metres: float, settings: Settings) -> dict[str, float]:
    """Medians over queries: all frames scored, scored with the index, and a whole call."""
    generator = torch.Generator().manual_seed(settings.seed)
    cameras, queries = (walkers(n, metres, generator) for n in (count, settings.queries))
    start = time.process_time()
    rule = Sector()
    retriever = FOVRetriever(cameras, rule)
    built = 1000 * (time.process_time() - start)
    views, every = rule.views(cameras), torch.arange(count)
    figures = []
    for i in range(settings.queries):
        query = Cameras(queries.c2w[i], queries.intrinsics[i])
        asked = rule.views(Cameras(query.c2w[None], query.intrinsics[None]))
        if not torch.equal(views.overlap(asked, every), retriever.overlap(query)):
            raise RuntimeError(f"Query {i}: the index changes overlaps.")
        everything = 1000 * best_of(lambda asked=asked: views.overlap(asked, every), settings.rounds)
        indexed = 1000 * best_of(lambda query=query: retriever.overlap(query), settings.rounds)
        call = 1000 * best_of(lambda query=query: retriever(query, 20), settings.rounds)
        figures.append((everything, indexed, call, float((retriever.overlap(query) > 0).sum())))
    every_ms, indexed, call, overlapping = np.median(np.array(figures), axis=0).tolist()
    return {
        "building the retriever, ms": round(built, 1),
        "all frames scored, ms": round(every_ms, 2),
        "overlap with the index, ms": round(indexed, 2),
        "hits of 20 with the index, ms": round(call, 2),
        "all / index": round(every_ms / indexed, 1),
        "frames that overlap": overlapping,
    }


def main(settings: Settings) -> None:
    """Time the room and the city and print the figures."""
    torch.set_num_threads(settings.threads)
    result = {
        "room": measure(settings.room_frames, 10.0, settings),
        "city": measure(settings.city_frames, 1000.0, settings),
    }
    report(result, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
