"""Generate what is missing of a benchmark's videos, score each once, and tabulate the scores of all conditions.

A folder OUT has per condition, such as a method, the folder that the benchmark's scorer reads, and CONDITION.jsonl: the
settings, and a row per video with its scores and SHA-256. A command that was stopped goes on at the next missing video.
"""

from __future__ import annotations

import math
import sys
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from memkit.errors import InputError
from memkit.evaluation.benchmarks.methods import VideoMaker
from memkit.evaluation.benchmarks.output import hash_output, read_output, write_output
from memkit.evaluation.benchmarks.task import Benchmark, Task
from memkit.evaluation.results import ResultStore, read_rows
from memkit.evaluation.tables import Measure, Table, compare
from memkit.files.atomic import writing

Rows = Mapping[tuple[str, str], "VideoRow"]
"""Rows of one condition, by condition and id."""


@dataclass(frozen=True)
class VideoRow:
    """A video of a benchmark, and its scores."""

    id: str
    condition: str
    group: str
    """What its scores are averaged with."""
    prompt: str
    """What was generated."""
    file: str
    """Relative to the folder of the condition's videos."""
    sha256: str
    scores: dict[str, float]


class BenchmarkRun:
    """The videos of one condition in a folder ``out``.

    Args:
        benchmark: what is asked for.
        tasks: those of the benchmark, or some of them.
        out: folder of the results; other conditions may be in it, too.
        condition: name of what is measured, valid as a file name.
        settings: all that the videos depend on, as JSON values.

    Raises:
        InputError: there are videos of other settings or prompts, or two videos have names that this file system does
            not tell apart.
        FileError: the rows are damaged, or cannot be written.
    """

    def __init__(
        self, benchmark: Benchmark, tasks: Sequence[Task], out: Path, condition: str, settings: Mapping[str, Any]
    ) -> None:
        self.benchmark, self.tasks, self.condition = benchmark, list(tasks), condition
        self.folder = out / benchmark.folder(condition)
        self.store = ResultStore(out / f"{condition}.jsonl", {"benchmark": benchmark.name, **settings}, VideoRow)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        _check_names(self.folder, [task.file for task in self.tasks])

    def missing(self) -> list[Task]:
        """The tasks without a row, and those whose video is gone or differs from what was written.

        Raises `InputError` for a video of another prompt or file name.
        """
        return [task for task in self.tasks if not self._is_done(task)]

    def _is_done(self, task: Task) -> bool:
        row = self.store.rows.get((self.condition, task.id))
        if row is None:
            return False
        if (row.prompt, row.file) != (task.prompt, task.file):
            raise InputError(f"{task.id} is there from another prompt or under another name; give another --out.")
        if hash_output(self.folder / task.file) == row.sha256:
            return True
        print(f"{self.folder / task.file} is missing or damaged, and is made again", file=sys.stderr)
        return False

    def generate(self, maker: VideoMaker, seed: int, fps: float) -> Rows:
        """Generate and score what is missing; ``fps`` is for tasks that state none. Returns all rows.

        Raises `InputError` for a video of another length than its task asks for.
        """
        todo = self.missing()
        for task in tqdm(todo, desc=self.condition, disable=not todo):
            frames = maker.generate(task, seed + task.seed)
            if task.length is not None and len(frames) != task.length:
                raise InputError(f"{task.id} has {len(frames)} frames; the method must give {task.length}.")
            write_output(self.folder / task.file, frames, task.fps or fps)
            self._score(task)
        self._finish()
        return self.store.rows

    def score_existing(self) -> list[Task]:
        """Score the videos that something else has written into the folder. Returns the tasks without a video."""
        absent = [task for task in self.tasks if not hash_output(self.folder / task.file)]
        for task in self.tasks:
            row = self.store.rows.get((self.condition, task.id))
            if task not in absent and (row is None or row.sha256 != hash_output(self.folder / task.file)):
                self._score(task)
        self._finish()
        return absent

    def _finish(self) -> None:
        """Add scores that could not be computed before, and what the scorer needs beside the videos."""
        for task in self.tasks:
            row = self.store.rows.get((self.condition, task.id))
            if row is not None and not row.scores and self.benchmark.is_scored(task):
                self._score(task)
        self.benchmark.finish(self.folder, self.tasks)

    def _score(self, task: Task) -> None:
        place, before = self.folder / task.file, self.store.rows.get((self.condition, task.id))
        scores = self.benchmark.score(task, read_output(place)) if self.benchmark.is_scored(task) else {}
        row = VideoRow(task.id, self.condition, task.group, task.prompt, task.file, hash_output(place), scores)
        if scores:
            self.benchmark.write_beside(self.folder, task, scores)
        if row != before:
            self.store.add(row)


def tables(runs: Sequence[Rows]) -> dict[str, Table]:
    """A table per group that has scores: a row per condition, a column per score, means with intervals over videos."""
    groups: dict[str, list[str]] = {}
    for rows in runs:
        for row in rows.values():
            columns = groups.setdefault(row.group, [])
            columns += [name for name in row.scores if name not in columns]
    found: dict[str, Table] = {}
    for group, columns in groups.items():
        measures = {name: Measure(lambda row, name=name: row.scores.get(name, math.nan)) for name in columns}
        for rows in runs if columns else ():
            own = {key: row for key, row in rows.items() if row.group == group}
            for condition in dict.fromkeys(condition for condition, _ in own):
                found.setdefault(group, {}).update(compare(measures, {condition: [own]}, condition))
    return found


def read_conditions(out: Path) -> list[Rows]:
    """The rows of all conditions in a folder, by name. Raises `FileError` where a file is damaged."""
    return [read_rows(file, VideoRow) for file in sorted(out.glob("*.jsonl"))]


def _check_names(folder: Path, files: Sequence[str]) -> None:
    """Raise `InputError` where this file system takes two of the names for one, in another case or Unicode form."""
    seen: dict[str, str] = {}
    for file in files:
        plain = unicodedata.normalize("NFKD", file).casefold()
        other = seen.setdefault(plain, file)
        if other != file and _one_file(folder, other, file):
            raise InputError(
                f"{folder} is on a file system that takes {other!r} and {file!r} for one name; give --out on one that "
                "tells them apart."
            )


def _one_file(folder: Path, one: str, other: str) -> bool:
    """Whether a file of one name is also found by the other."""
    with writing(folder), tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch, one)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        return Path(scratch, other).exists()
