"""A set of rendered clips on disk: one uint8 array per suite of the worlds, with the captions beside it.

Each row of the captions has the CRC-32 of its clip, which is compared when the clip is read.

Clips have 17 frames. Those of the suite `laws` show an event from its beginning; those of `interruptions` and `rooms`
are windows of longer clips. Each clip of a suite and seed has its own random generator, so that any part of a set
can be rendered again.
"""

from __future__ import annotations

import gc
import operator
import os
import random
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import UInt8
from tqdm import tqdm

from memkit.errors import FileError, InputError
from memkit.files.atomic import reading, write_text, writing
from memkit.files.json_files import read_rows, write_rows
from memkit.worlds.constants import Split
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES, Part, caption_of
from memkit.worlds.interruptions import NUM_FRAMES as WHOLE
from memkit.worlds.interruptions import sample_interruption
from memkit.worlds.laws import sample_law
from memkit.worlds.rooms import sample_clip

SUITES = ("laws", "interruptions", "rooms")
_SHAPE = (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
_MOST = 10**6  # clips of a suite
_CRC = "frames_crc32"
_NAMES = {"id", "kind", "source", "caption", "parts"}
_AGAIN = "remove the suite's files and render it again"
_CHUNK = 50  # clips between two records of the progress


@dataclass(frozen=True)
class ClipSetConfig:
    """Settings of a set of clips."""

    out: Path = Path("worlds")
    """Folder of the set."""
    laws: int = 4000
    """Number of clips of the suite `laws`; 0 leaves it out."""
    interruptions: int = 2000
    """Number of clips of the suite `interruptions`."""
    rooms: int = 2000
    """Number of clips of the suite `rooms`."""
    split: Split = "train"
    """Split of the planets, materials, substances and rooms."""
    seed: int = 0
    """Seed of all clips."""
    workers: int = 2
    """Number of rendering processes."""

    def __post_init__(self) -> None:
        counts = [getattr(self, suite) for suite in SUITES]
        if min(counts) < 0 or max(counts) > _MOST or not any(counts):
            raise InputError(f"A set cannot have {counts} clips; give 1 to {_MOST} of one suite at least, else 0.")
        if not 1 <= self.workers <= 1024:
            raise InputError(f"{self.workers} workers cannot render; give 1 or more.")

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

    A call that was stopped is continued by the next call.

    Raises:
        InputError: the folder has clips of other settings, cannot be written, or has no room.
    """
    with writing(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(config.out).free) < config.bytes:  # a full disk would end the process
            raise InputError(f"{config.out} has {free:,} bytes free and {config.bytes:,} are needed; make room.")
        # garbage of this process stays: frames of PyAV have threads, for which a forked process would wait for ever
        with ProcessPoolExecutor(config.workers, initializer=gc.freeze) as pool:
            for suite in SUITES:
                count = getattr(config, suite)
                if count and not (config.out / f"{suite}.npy").exists():
                    _write(config, suite, count, pool)


def _write(config: ClipSetConfig, suite: str, count: int, pool: Executor) -> None:
    partial, mark = config.out / f"{suite}.partial.npy", config.out / f"{suite}.done"
    done = _done(mark) if mark.exists() and partial.exists() else 0
    if done:
        clips = _open(partial, "r+")
        if clips.shape != (count, *_SHAPE) or not (clips[0] == draw(config, suite, 0).render().numpy()).all():
            raise InputError(f"{partial} has clips of other settings; set them back, or {_AGAIN}.")
    else:
        clips = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, *_SHAPE))
    with tqdm(total=count, initial=done, desc=f"render {suite}") as bar:
        for start in range(done, count, _CHUNK):
            jobs = [(config, suite, i) for i in range(start, min(start + _CHUNK, count))]
            for job, frames in zip(jobs, pool.map(_render, jobs, chunksize=5), strict=True):
                clips[job[2]] = frames
                bar.update()
            clips.flush()
            write_text(mark, str(start + len(jobs)))
    rows = ({**draw(config, suite, i).row, _CRC: zlib.crc32(clips[i])} for i in range(count))
    write_rows(config.out / f"{suite}.jsonl", rows)
    os.replace(partial, config.out / f"{suite}.npy")
    mark.unlink()


def _done(mark: Path) -> int:
    text = mark.read_text(encoding="utf-8", errors="replace")
    if not text.isdecimal():
        raise FileError(f"{mark} is damaged: it does not say how many clips are rendered; {_AGAIN}.")
    return int(text)


def _open(file: Path, mode: Literal["r", "r+"]) -> np.ndarray:
    """The clips of a file, memory-mapped."""
    with reading(file, _AGAIN):
        try:
            clips = np.load(file, mmap_mode=mode, allow_pickle=False)
        except Exception as error:  # numpy has many types for a damaged file
            raise FileError(f"{file} is damaged ({error}); {_AGAIN}.") from error
    if clips.dtype != np.uint8 or clips.shape[1:] != _SHAPE:
        raise FileError(f"{file} holds {clips.dtype} of {clips.shape} instead of clips; {_AGAIN}.")
    return clips


class ClipSet:
    """The memory-mapped clips of all suites in a folder; ``rows`` has the id, kind, source and caption of each clip.

    ``parts`` of a row are the pieces of the caption, as `memkit.worlds.event.Part`.
    """

    def __init__(self, folder: Path, suites: Sequence[str] = SUITES) -> None:
        if not any((folder / f"{suite}.npy").exists() for suite in SUITES):
            raise FileError(f"There are no clips in {folder}; render them, or give the folder that has them.")
        suites = [suite for suite in suites if (folder / f"{suite}.npy").exists()]
        self.folder = folder
        self._arrays = [_open(folder / f"{suite}.npy", "r") for suite in suites]
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        rows = [read_rows(folder / f"{suite}.jsonl", _AGAIN) for suite in suites]
        for suite, array, some in zip(suites, self._arrays, rows, strict=True):
            if len(array) != len(some) or not all(row.keys() >= _NAMES for row in some):
                raise FileError(f"{folder / suite}.jsonl does not describe the {len(array)} clips; {_AGAIN}.")
        self.rows: list[dict[str, Any]] = [row for some in rows for row in some]
        self._crcs = [row.pop(_CRC, None) for row in self.rows]  # which older sets do not have

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> UInt8[np.ndarray, "frames height width 3"]:
        """A clip. Raises `FileError` if it is damaged."""
        index = operator.index(index)
        suite = int(np.searchsorted(self._starts, index, side="right")) - 1
        clip = self._arrays[suite][index - self._starts[suite]]
        if self._crcs[index] not in (None, zlib.crc32(clip.data)):
            raise FileError(f"Clip {self.rows[index]['id']} in {self.folder} is damaged; {_AGAIN}.")
        return clip
