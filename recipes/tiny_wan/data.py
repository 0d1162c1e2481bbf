"""Render the training clips of tiny-wan once, a uint8 array on disk for each suite, with their captions beside it.

    python -m recipes.tiny_wan.data --out runs/tiny-wan/worlds

Clips are 17 frames long. Those of `laws` begin at the beginning; those of `interruptions` and `rooms` are windows of
longer ones. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from tqdm import tqdm

from memkit.worlds import sample_interruption, sample_law
from memkit.worlds.constants import Split
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES, Part, caption_of
from memkit.worlds.interruptions import NUM_FRAMES as WHOLE
from memkit.worlds.rooms import sample_clip

SUITES = ("laws", "interruptions", "rooms")
_SHAPE = (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
_CHUNK = 50


@dataclass(frozen=True)
class DataConfig:
    """Clip i of a suite and seed is drawn from its own generator, so any part of the set can be made again alone."""

    out: Path = Path("runs/tiny-wan/worlds")
    laws: int = 4000
    interruptions: int = 2000
    rooms: int = 2000
    split: Split = "train"
    seed: int = 0
    workers: int = 2

    @property
    def bytes(self) -> int:
        """On disk."""
        return (self.laws + self.interruptions + self.rooms) * int(np.prod(_SHAPE))


class Drawn(NamedTuple):
    """A clip: its row, ready for JSON, and how to render it."""

    row: dict[str, Any]
    render: Any


def draw(config: DataConfig, suite: str, index: int) -> Drawn:
    """Clip ``index`` of a suite."""
    id = f"{suite}/{config.split}/{config.seed}/{index}"
    rng = random.Random(id)
    if suite == "laws":
        event = sample_law(rng, config.split)
        return Drawn(_row(id, event.kind, id, event.parts()), event.video)
    if suite == "interruptions":
        whole, first = sample_interruption(rng, config.split), rng.randrange(WHOLE - NUM_FRAMES + 1)
        start = first / FPS
        parts = whole.parts(start, start + (NUM_FRAMES - 1) / FPS)
        return Drawn(_row(id, whole.event.kind, id, parts), lambda: whole.video(NUM_FRAMES, start=start))
    clip = sample_clip(rng, config.split)
    return Drawn(_row(id, "room", clip.source, clip.parts()), clip.video)


def _row(id: str, kind: str, source: str, parts: Sequence[Part]) -> dict[str, Any]:
    told = {"caption": caption_of(parts), "parts": [list(part) for part in parts]}
    return {"id": id, "kind": kind, "source": source, **told}


def _render(job: tuple[DataConfig, str, int]) -> np.ndarray:
    torch.set_num_threads(1)
    return draw(*job).render().numpy()


def missing(config: DataConfig) -> int:
    """Clips of suites that are not finished."""
    return sum(getattr(config, suite) for suite in SUITES if not (config.out / f"{suite}.npy").exists())


def main(config: DataConfig) -> None:
    """Write ``SUITE.npy`` [clips, frames, height, width, 3] and ``SUITE.jsonl`` for each suite; a rename ends each."""
    config.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(config.workers) as pool:
        for suite in SUITES:
            count = getattr(config, suite)
            if count and not (config.out / f"{suite}.npy").exists():
                _write(config, suite, count, pool)


def _write(config: DataConfig, suite: str, count: int, pool: ProcessPoolExecutor) -> None:
    partial, mark = config.out / f"{suite}.partial.npy", config.out / f"{suite}.done"
    done = int(mark.read_text()) if mark.exists() and partial.exists() else 0
    mode = "r+" if done else "w+"
    clips = np.lib.format.open_memmap(partial, mode=mode, dtype=np.uint8, shape=None if done else (count, *_SHAPE))
    with tqdm(total=count, initial=done, desc=f"render {suite}") as bar:
        for start in range(done, count, _CHUNK):
            jobs = [(config, suite, i) for i in range(start, min(start + _CHUNK, count))]
            for job, frames in zip(jobs, pool.map(_render, jobs, chunksize=5), strict=True):
                clips[job[2]] = frames
                bar.update()
            clips.flush()
            mark.write_text(str(start + len(jobs)))
    rows = (json.dumps(draw(config, suite, i).row) for i in range(count))
    (config.out / f"{suite}.jsonl").write_text("\n".join(rows) + "\n")
    os.replace(partial, config.out / f"{suite}.npy")
    mark.unlink()


class Clips:
    """The suites of a folder one after the other, memory-mapped; ``rows`` holds captions and sources."""

    def __init__(self, folder: Path, suites: Sequence[str] = SUITES) -> None:
        suites = [suite for suite in suites if (folder / f"{suite}.npy").exists()]
        self._arrays = [np.load(folder / f"{suite}.npy", mmap_mode="r") for suite in suites]
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        lines = [line for suite in suites for line in (folder / f"{suite}.jsonl").read_text().splitlines()]
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 [frames, height, width, 3]."""
        suite = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._arrays[suite][index - self._starts[suite]]


if __name__ == "__main__":
    main(tyro.cli(DataConfig))
