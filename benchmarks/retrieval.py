"""Approximate against exact retrieval: queries per second, recall, time to open, memory.

    python -m benchmarks.retrieval --size 400000 --dim 768

Two sets of unit vectors: *clustered*, around 1 % as many centres with a cosine of 0.74 to them, as captions of videos
on similar subjects are; and *uniform* on the sphere, the hardest case there is: nothing is near anything. Queries are
drawn like the vectors. For each engine a process of its own, with one thread, opens the index that is saved in
``--folder`` (about 1.3 GB per set at the default size, removed at the end) and answers queries one at a time, in turn
with the other process. Times of queries are CPU times of the process, which other load distorts least, so a ratio is
that of queries per second of one core; it is the median over rounds, with the 95 % interval of a bootstrap over rounds.
The time to open is that of the clock, with the files in the system's cache. The
memory of an index is what its process has resident after all queries beyond what it had before it opened the index:
Python, torch and FAISS alone take 0.3 to 0.6 GB.

``--lancedb`` adds `LanceDB`, whose index takes minutes to build. See docs/scale.md for figures.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import tyro

from benchmarks.common import report
from memkit.metrics import bootstrap
from memkit.retrievers import Approximate, Engine, Exact, Excluded, LanceDB, SavedIndex
from memkit.retrievers.engines.vector_file import write_vectors

KINDS = ("clustered", "uniform")
BLOCK = 10_000
K = 5


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    size: int = 400_000
    dim: int = 768
    queries: int = 100
    rounds: int = 7
    kinds: tuple[str, ...] = KINDS
    lancedb: bool = False
    seed: int = 0
    folder: Path = Path("out/retrieval")
    out: Path = Path("out/retrieval.json")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(kind: str, count: int, settings: Settings, seed: int) -> Iterator[np.ndarray]:
    """``count`` unit vectors of a kind, in blocks."""
    rng, dim = np.random.default_rng(seed), settings.dim
    centres = np.random.default_rng(settings.seed).standard_normal((max(1, settings.size // 100), dim), np.float32)
    centres = unit(centres)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        own = rng.standard_normal((rows, dim), np.float32)
        if kind == "clustered":
            own = centres[rng.integers(0, len(centres), rows)] + np.float32(0.9 / dim**0.5) * own
        yield unit(own)


def served(engine: Engine, folder: Path, pipe: Any) -> None:
    """A process that opens an index and answers lists of queries: seconds and rows of each, and at the end its size."""
    torch.set_num_threads(1)
    import faiss  # before the opening: its import is not part of it

    faiss.omp_set_num_threads(1)
    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    saved = engine.read(folder)
    opened = time.perf_counter() - start
    assert saved is not None
    everything = Excluded(frozenset(), frozenset(), np.ones(len(saved.vectors), bool))
    pipe.send((opened, before))
    while (queries := pipe.recv()) is not None:
        answers = []
        for query in queries:
            start = time.process_time()
            rows, _ = saved.vectors.search(query, K, everything)
            answers.append((time.process_time() - start, rows))
        pipe.send(answers)
    pipe.send(process.memory_info().rss)


class Server:
    """The other end of `served`."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=served, args=(engine, folder, theirs), daemon=True)
        self._process.start()
        self.opened, self.before = self._pipe.recv()

    def answer(self, queries: np.ndarray) -> tuple[float, list[set[int]]]:
        """Seconds per query, and the rows that were found for each."""
        self._pipe.send(queries)
        answers = self._pipe.recv()
        return sum(seconds for seconds, _ in answers) / len(answers), [set(rows.tolist()) for _, rows in answers]

    def close(self) -> int:
        """Resident bytes after all queries."""
        self._pipe.send(None)
        resident = self._pipe.recv()
        self._process.join()
        return resident


def build(kind: str, settings: Settings) -> dict[str, float]:
    """Save the index of a kind for all engines; seconds that it took beyond writing the vectors."""
    folder = settings.folder / kind
    folder.mkdir(parents=True, exist_ok=True)
    about = {"settings": {}, "fingerprint": "", "contents": ""}
    blocks = draw(kind, settings.size, settings, settings.seed + 1)
    write_vectors(folder / "index.safetensors", about, blocks, settings.size, settings.dim)
    start = time.perf_counter()
    approximate().read(folder)
    seconds = {"approximate": time.perf_counter() - start}
    if settings.lancedb:
        start = time.perf_counter()
        engine = LanceDB(nprobes=0 if kind == "uniform" else 32)
        index = engine.empty(folder, settings.dim)
        for i, block in enumerate(draw(kind, settings.size, settings, settings.seed + 1)):
            index.add(block, [str(i * BLOCK + j) for j in range(len(block))], [None] * len(block))
        engine.write(folder, SavedIndex({}, "", "", index))
        seconds["lancedb"] = time.perf_counter() - start
    return seconds


def approximate() -> Approximate:
    """The engine as it is by default, also for small tries."""
    return Approximate(smallest=64)


def measure(kind: str, settings: Settings) -> dict[str, Any]:
    """Figures of each engine for one kind of vectors."""
    seconds = build(kind, settings)
    folder = settings.folder / kind
    engines: dict[str, Engine] = {"exact": Exact(), "approximate": approximate()}
    if settings.lancedb:
        engines["lancedb"] = LanceDB(nprobes=0 if kind == "uniform" else 32)
    try:
        servers = {name: Server(engine, folder) for name, engine in engines.items()}
        queries = np.concatenate(list(draw(kind, settings.queries, settings, settings.seed + 2)))
        for server in servers.values():
            server.answer(queries[:5])
        times: dict[str, list[float]] = {name: [] for name in servers}
        found: dict[str, list[set[int]]] = {}
        for _ in range(settings.rounds):
            for name, server in servers.items():
                took, found[name] = server.answer(queries)
                times[name].append(took)
        sizes = {name: server.close() for name, server in servers.items()}
    finally:
        shutil.rmtree(folder)
    added = {name: sizes[name] - servers[name].before for name in servers}
    return {
        name: {
            "ms per query": round(1000 * float(np.median(times[name])), 2),
            "queries per second, ratio": ratio(times["exact"], times[name]),
            "recall@5": recall(found["exact"], found[name]),
            "seconds to open": round(servers[name].opened, 2),
            "resident MB of the index": round(added[name] / 1e6),
            "resident MB of the process": round(sizes[name] / 1e6),
            "index / exact": round(added[name] / added["exact"], 3),
            "process / exact": round(sizes[name] / sizes["exact"], 3),
            "seconds to build": round(seconds.get(name, 0.0), 1),
        }
        for name in engines
    }


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """Median of the ratios of rounds, with its 95 % interval."""
    interval = bootstrap(lambda x: float(np.median(x)), np.array(slow) / np.array(fast))
    return [round(value, 2) for value in interval]


def recall(exact: list[set[int]], found: list[set[int]]) -> list[float]:
    """Share of the exact neighbours that were found, with its 95 % interval over queries."""
    shares = np.array([len(a & b) / len(a) for a, b in zip(exact, found, strict=True)])
    return [round(value, 4) for value in bootstrap(lambda x: float(x.mean()), shares)]


def main(settings: Settings) -> None:
    """Measure both kinds and print the figures."""
    needed = 4 * settings.size * settings.dim * 3 / 1e9
    free = psutil.virtual_memory().available / 1e9
    if free < needed:
        raise SystemExit(f"{settings.size:,} vectors take {needed:.1f} GB and {free:.1f} GB are free; lower --size.")
    report({kind: measure(kind, settings) for kind in settings.kinds}, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
