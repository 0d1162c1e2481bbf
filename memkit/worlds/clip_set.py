"""A set of rendered clips on disk: one uint8 array per suite of the worlds, with the captions beside it.

Clips have 17 frames. Those of the suite `laws` show an event from its beginning; those of `interruptions` and `rooms`
are windows of longer clips. Clip i of a suite and seed is drawn from a generator of its own, so any part of a set can
be rendered again alone.
"""

from __future__ import annotations

import json
import operator
import os
import random
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from memkit.worlds.constants import Split
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES, Part, caption_of
from memkit.worlds.interruptions import NUM_FRAMES as WHOLE
from memkit.worlds.interruptions import sample_interruption
from memkit.worlds.laws import sample_law
from memkit.worlds.rooms import sample_clip

SUITES = ("laws", "interruptions", "rooms")
_SHAPE = (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
_CHUNK = 50  # clips that are rendered between two records of how far it is


@dataclass(frozen=True)
class ClipSetConfig:
    """What a set of clips has."""

    out: Path = Path("worlds")
    """Folder of the set."""
    laws: int = 4000
    """Number of clips of the suite; 0 leaves it out."""
    interruptions: int = 2000
    """The same."""
    rooms: int = 2000
    """The same."""
    split: Split = "train"
    """Split of the planets, materials, substances and rooms."""
    seed: int = 0
    """Seed of all clips."""
    workers: int = 2
    """Number of processes that render."""

    @property
    def bytes(self) -> int:
        """Size of the set on disk."""
        return (self.laws + self.interruptions + self.rooms) * int(np.prod(_SHAPE))


class Drawn(NamedTuple):
    """A clip: its row, ready for JSON, and a function that renders it [frames, height, width, 3]."""

    row: dict[str, Any]
    render: Any


def draw(config: ClipSetConfig, suite: str, index: int) -> Drawn:
    """Clip ``index`` of a suite: "laws", "interruptions" or "rooms"."""
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


def _render(job: tuple[ClipSetConfig, str, int]) -> np.ndarray:
    torch.set_num_threads(1)
    return draw(*job).render().numpy()


def missing(config: ClipSetConfig) -> int:
    """Number of clips of the suites that are not complete on disk."""
    return sum(getattr(config, suite) for suite in SUITES if not (config.out / f"{suite}.npy").exists())


def render_clip_set(config: ClipSetConfig) -> None:
    """Write ``SUITE.npy`` [clips, frames, height, width, 3] and ``SUITE.jsonl`` for each suite that is not complete.

    A call that was stopped is continued by the next one.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(config.workers) as pool:
        for suite in SUITES:
            count = getattr(config, suite)
            if count and not (config.out / f"{suite}.npy").exists():
                _write(config, suite, count, pool)


def _write(config: ClipSetConfig, suite: str, count: int, pool: Executor) -> None:
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


class ClipSet:
    """The suites of a folder, one after the other and memory-mapped; ``rows`` has id, kind, source and caption of each.

    A row's ``parts`` are the pieces of the caption, as `memkit.worlds.event.Part`.
    """

    def __init__(self, folder: Path, suites: Sequence[str] = SUITES) -> None:
        suites = [suite for suite in suites if (folder / f"{suite}.npy").exists()]
        self._arrays = [np.load(folder / f"{suite}.npy", mmap_mode="r") for suite in suites]
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        lines = [line for suite in suites for line in (folder / f"{suite}.jsonl").read_text().splitlines()]
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> UInt8[np.ndarray, "frames height width 3"]:
        """A clip."""
        index = operator.index(index)
        suite = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._arrays[suite][index - self._starts[suite]]
