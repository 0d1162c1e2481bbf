"""Retrieval by geometry, without any training: which rule finds the frames that saw what a camera will see?

    python -m benchmarks.geometry --out out/geometry.json      # 2 minutes of CPU

On the probe `occlusion`, walls right before most cameras hide what is asked for, and one frame or a few saw it: the
share of queries of which it is among the first ``hits``. In `rooms`, a camera walks through two rooms joined by a door:
the share of the pixels of later views whose surface is visible in one of the first ``hits`` of the earlier frames, by
exact depth. Depth is exact, or that of each frame is off by a random factor exp(σ·n), as estimated depth may be.
Intervals are 95 %, over samples or rooms.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.common import report
from memkit.cameras import Cameras
from memkit.metrics import bootstrap
from memkit.probes import make_probe
from memkit.retrievers import (
    FOVRetriever,
    LiftedLatents,
    LiftRule,
    Points,
    SurfelRetriever,
    SurfelRule,
    WorldMemRetriever,
    WorldMemRule,
)
from memkit.worlds import render
from memkit.worlds.rooms import Room

Build = Callable[[Cameras, Tensor, Tensor], Any]
"""A retriever of frames, from their cameras, depth and latents."""


@dataclass(frozen=True)
class Settings:
    """Sizes."""

    samples: int = 64
    """Of the probe, with two queries each."""
    rooms: int = 10
    frames: int = 48
    """Of a tour of 24 seconds; the last quarter are the queries."""
    side: int = 48
    """Rows and columns of a view of a room."""
    hits: tuple[int, ...] = (1, 2, 4)
    errors: tuple[float, ...] = (0.0, 0.3)
    """σ of the depth."""
    pixels: int = 48
    """Rows and columns of the picture of surfels."""
    seed: int = 0
    out: Path = Path("out/geometry.json")
    walls: tuple[tuple[int, int], ...] = ((4, 3), (8, 7))
    """Views per place of the probe, and how many of them have a wall."""


def rules(settings: Settings) -> dict[str, Build]:
    """The retrievers that are compared."""

    def surfels(select: Literal["poses", "votes"], zoom: float = 0.65) -> Build:
        rule = SurfelRule(pixels=(settings.pixels, settings.pixels), zoom=zoom)
        return lambda past, depth, _: SurfelRetriever(past, depth, rule, select=select)

    def lifted(past: Cameras, depth: Tensor, latents: Tensor) -> LiftedLatents:
        channels, _, rows, columns = latents.shape
        store = LiftedLatents(channels, (rows, columns), LiftRule(voxel=0.5))
        store.add(past, latents, depth)
        return store

    points = Points(count=2000)
    return {
        "fov, sectors": lambda past, *_: FOVRetriever(past),
        "WorldMem's rule": lambda past, *_: WorldMemRetriever(past, WorldMemRule(count=2000)),
        "fov, points, depth": lambda past, depth, _: FOVRetriever(past, points, depth=depth),
        "surfels": surfels("poses"),
        "surfels, votes": surfels("votes"),
        "surfels, votes, zoom 0.3": surfels("votes", zoom=0.3),
        "lifted latents": lifted,
    }


def probe_cases(settings: Settings, views: int, walls: int) -> Iterator[tuple[Cameras, Tensor, Tensor, list]]:
    """Past, depth and latents of each sample, and its queries: a camera, and what hits score."""
    probe = make_probe("occlusion", depth=True, views=views, walls=walls)
    batch = next(probe.batches("test", settings.seed, settings.samples))
    assert batch.depth is not None
    for i in range(settings.samples):
        right = torch.einsum("cnhw,cfhw->fn", batch.memory[i], batch.target[i]) > 0.5 * batch.target[i, :, 0].numel()
        right &= (batch.memory[i].unsqueeze(2) - batch.target[i].unsqueeze(1)).abs().amax((0, 3, 4)).T < 1e-3
        queries = [
            (Cameras(batch.cameras.c2w[i, f], batch.cameras.intrinsics[i, f]), right[f, :, None])
            for f in range(len(batch.times))
        ]
        past = Cameras(batch.memory_cameras.c2w[i], batch.memory_cameras.intrinsics[i])
        yield past, batch.depth[i], batch.memory[i], queries


def room_cases(settings: Settings) -> Iterator[tuple[Cameras, Tensor, Tensor, list]]:
    """The same of rooms: a hit scores the pixels whose surface is visible in it."""
    for number in range(settings.rooms):
        room, seconds = Room.named(f"test-{number:05}"), torch.arange(settings.frames).double() / 2
        tour = room.tour(random.Random(settings.seed + number), settings.frames / 2).cameras(seconds)
        depth = render(room.scene(seconds), tour, settings.side, settings.side, antialias=False).depth.double()
        count = 3 * settings.frames // 4
        past = Cameras(tour.c2w[:count], tour.intrinsics[:count])
        queries = []
        for i in range(count, settings.frames):
            query = Cameras(tour.c2w[i], tour.intrinsics[i])
            queries.append((query, visible(past, depth[:count], query, depth[i])))
        latents = torch.zeros(1, count, 12, 12)
        yield past, depth[:count], latents, queries


def visible(past: Cameras, depth: Tensor, query: Cameras, own: Tensor, slack: float = 0.2) -> Tensor:
    """Which of the query's surfaces [frames, pixels] each past frame shows, up to ``slack`` metres of depth."""
    origin, ways = query.rays(*own.shape)
    points = (origin + own[..., None] * ways)[own.isfinite()]
    to = (points - past.c2w[:, None, :3, 3]) @ past.c2w[:, :3, :3]
    fx, fy, cx, cy = past.intrinsics[:, None].unbind(-1)
    height, width = depth.shape[1:]
    column, row = width * (fx * to[..., 0] / to[..., 2] + cx), height * (fy * to[..., 1] / to[..., 2] + cy)
    inside = (to[..., 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = (x.nan_to_num().clamp(0, n - 1).long() for x, n in ((row, height), (column, width)))
    surface = depth[torch.arange(len(depth))[:, None], row, column]
    return inside & ((to.norm(dim=-1) - surface).abs() < slack)


def measure(cases: list, build: Build, settings: Settings, error: float) -> dict[int, np.ndarray]:
    """The mean score of each case, by number of hits."""
    found: dict[int, list[float]] = {k: [] for k in settings.hits}
    for number, (past, depth, latents, queries) in enumerate(cases):
        generator = torch.Generator().manual_seed(number)
        factor = (error * torch.randn(len(depth), 1, 1, generator=generator)).exp()
        retriever = build(past, (depth * factor).to(depth.dtype), latents)
        for k in settings.hits:
            chosen = [[int(id) for id in retriever(query, k).ids] for query, _ in queries]
            scores = [seen[rows].any(0).double().mean() for rows, (_, seen) in zip(chosen, queries, strict=True)]
            found[k].append(float(torch.stack(scores).mean()))
    return {k: np.array(values) for k, values in found.items()}


def shown(values: np.ndarray, sign: str = "") -> str:
    """A mean with its interval."""
    return "{:{sign}.2f} [{:{sign}.2f}, {:{sign}.2f}]".format(*bootstrap(lambda x: float(x.mean()), values), sign=sign)


def main(settings: Settings) -> None:
    """All rules on all cases, and their difference from the first rule on the same cases."""
    torch.set_num_threads(1)
    sets = {f"occlusion, {w} of {v}": list(probe_cases(settings, v, w)) for v, w in settings.walls}
    sets["rooms"] = list(room_cases(settings))
    every = [float(seen.any(0).double().mean()) for *_, queries in sets["rooms"] for _, seen in queries]
    result: dict[str, Any] = {"rooms: all frames": f"{np.mean(every):.2f}"}
    for title, cases in sets.items():
        first: dict[int, np.ndarray] | None = None
        for name, build in rules(settings).items():
            exact_only = name in ("fov, sectors", "WorldMem's rule", "surfels, votes, zoom 0.3")
            for error in (0.0,) if exact_only else settings.errors:
                found = measure(cases, build, settings, error)
                first = first or found
                row = {f"{k} hits": (shown(found[k]), shown(found[k] - first[k], "+")) for k in settings.hits}
                result[f"{title}: {name}" + (f", depth off by {error}" if error else "")] = row
                print(title, name, error, row, flush=True)
    report(result, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
