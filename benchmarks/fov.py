"""Speed of retrieval by field of view: the sector rule over all frames, with the index, and against plain loops.

    python -m benchmarks.fov --out out/fov.json

A room: 100 000 frames at random positions in 10 m × 10 m, all within reach of the query. A city: a million frames at
random positions in 1 km × 1 km. Both are scored without and with the index, which must give the same overlaps. Figures
are medians over queries of the best of the rounds, in CPU milliseconds of the process, which are robust to other load.

Two plain Python loops over the frames of the room give the same overlaps: one calls the library for each frame, as a
program without batches would (timed on ``loop_frames`` of them); the other clips polygons in plain floats, and is about
as fast as Python can be.

Measured on one of two virtual Xeon cores, torch 2.14, both busy with much other work (one query):

    calls of the library frame by frame / overlap of all frames at once    2987
    plain floats / overlap of all frames at once                             13
    a million frames, 1 km × 1 km: overlap with the index, 20 hits         6.0 ms, 4.6 ms; all frames scored: 541 ms

Before, on a core with less other work (virtual AMD EPYC, torch 2.15):

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
from typing import Any

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
    loop_frames: int = 1000
    threads: int = 1
    seed: int = 0
    out: Path = Path("out/fov.json")


def walkers(count: int, metres: float, generator: torch.Generator) -> Cameras:
    """Level cameras at random positions on a square, with random headings."""
    x, y, share = torch.rand(3, count, generator=generator, dtype=torch.float64)
    eye = torch.stack([x * metres, y * metres, torch.full_like(x, 1.5)], -1)
    yaw = share * 2 * math.pi
    return looking(eye, yaw)


Point = tuple[float, float]


def sector(c2w: list[list[float]], intrinsics: list[float], far: float) -> list[Point]:
    """Corners of a camera's sector on the ground, counter-clockwise, in plain floats."""
    (fx, _, cx, _), x, y = intrinsics, c2w[0][3], c2w[1][3]
    length = math.hypot(c2w[0][2], c2w[1][2])
    ahead, side = (c2w[0][2] / length, c2w[1][2] / length), (c2w[1][2] / length, -c2w[0][2] / length)
    corners = [(far * (ahead[0] + t * side[0]), far * (ahead[1] + t * side[1])) for t in ((1 - cx) / fx, -cx / fx)]
    return [(x, y), *((x + dx, y + dy) for dx, dy in corners)]


def area(polygon: list[Point]) -> float:
    """Of a polygon, counter-clockwise."""
    return sum(polygon[i - 1][0] * y - polygon[i - 1][1] * x for i, (x, y) in enumerate(polygon)) / 2


def clipped(polygon: list[Point], start: Point, end: Point) -> list[Point]:
    """The part of a polygon left of a line (Sutherland and Hodgman)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    inside = [dx * (y - start[1]) - dy * (x - start[0]) for x, y in polygon]
    kept: list[Point] = []
    for i, (x, y) in enumerate(polygon):
        before, here = inside[i - 1], inside[i]
        if (before >= 0) != (here >= 0):
            share, (u, v) = before / (before - here), polygon[i - 1]
            kept.append((u + share * (x - u), v + share * (y - v)))
        if here >= 0:
            kept.append((x, y))
    return kept


def float_loop(frames: list[Any], query: Any, far: float) -> list[float]:
    """The share of the query's sector that each frame's covers, frame by frame."""
    own = sector(*query, far)
    whole, shares = area(own), []
    for c2w, intrinsics in frames:
        polygon = sector(c2w, intrinsics, far)
        for i in range(len(own)):
            polygon = polygon and clipped(polygon, own[i - 1], own[i])
        shares.append(area(polygon) / whole if polygon else 0.0)
    return shares


def loops(settings: Settings) -> dict[str, float]:
    """How many times as long plain loops over the frames of the room take as `FOVRetriever.overlap`."""
    generator = torch.Generator().manual_seed(settings.seed)
    cameras, queries = (walkers(n, 10.0, generator) for n in (settings.room_frames, settings.queries))
    retriever, rule, few = FOVRetriever(cameras), Sector(), min(settings.loop_frames, settings.room_frames)
    singles = [Cameras(cameras.c2w[i : i + 1], cameras.intrinsics[i : i + 1]) for i in range(few)]
    frames = list(zip(cameras.c2w.tolist(), cameras.intrinsics.tolist(), strict=True))
    figures = []
    for i in range(settings.queries):
        query = Cameras(queries.c2w[i], queries.intrinsics[i])
        asked, one = rule.views(Cameras(query.c2w[None], query.intrinsics[None])), torch.arange(1)
        plain = query.c2w.tolist(), query.intrinsics.tolist()
        overlap = retriever.overlap(query)
        by_call = [float(rule.views(single).overlap(asked, one)) for single in singles]
        for shares in (by_call, float_loop(frames, plain, rule.far)):
            worst = (overlap[: len(shares)] - torch.tensor(shares, dtype=torch.float64)).abs().max()
            if worst > 1e-6:  # corners and borders that coincide count with a slack
                raise RuntimeError(f"Query {i}: a plain loop gives overlaps that differ by {worst}.")
        batched = best_of(lambda query=query: retriever.overlap(query), settings.rounds)
        calls = best_of(lambda asked=asked, one=one: [rule.views(s).overlap(asked, one) for s in singles], 1) / few
        floats = best_of(lambda plain=plain: float_loop(frames, plain, rule.far), 1)
        figures.append((calls * len(frames) / batched, floats / batched))
    by_call, by_floats = np.median(np.array(figures), axis=0).tolist()
    return {"calls frame by frame / batched": round(by_call), "plain floats / batched": round(by_floats, 1)}


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
        "loops": loops(settings),
    }
    report(result, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
