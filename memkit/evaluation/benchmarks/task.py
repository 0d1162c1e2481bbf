"""`Benchmark` and `Task`: the videos that a published benchmark asks for, and what can be scored of them here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.display import with_shapes
from memkit.errors import InputError

Frames = UInt8[Tensor, "time height width 3"]


class Given(NamedTuple):
    """What a video goes on from.

    Attributes:
        frames: uint8 [P, H, W, 3], one or more frames at the size of the model.
        cameras: [P + n], one per given frame and one per frame to generate; None where they are unknown.
    """

    frames: UInt8[Tensor, "past height width 3"]
    cameras: Cameras | None

    __repr__ = with_shapes


@dataclass(frozen=True)
class Task:
    """A video that a benchmark asks for.

    Attributes:
        id: its name, which no other task has.
        group: what its scores are averaged with, such as a split.
        file: where the benchmark's scorer looks for it, relative to the folder of all videos: an mp4 file, or a folder
            of PNG files, which are sorted by name.
        prompt: what to generate.
        seed: what is added to the seed of a run.
        given: ``given(height, width)`` reads what the video goes on from; None for a video from the prompt alone.
        kept: number of given frames, the newest, with which the video begins.
        length: number of frames of the video; None for as many as the model generates at once.
        fps: frames per second of an mp4 file; None for those of the model.
    """

    id: str
    group: str
    file: str
    prompt: str
    seed: int = 0
    given: Callable[[int, int], Given] | None = None
    kept: int = 0
    length: int | None = None
    fps: float | None = None


class Benchmark(ABC):
    """The tasks of a benchmark, and the scores that need no other model.

    Attributes:
        name: its name on the command line.
        next_step: what to do with the folder of videos.
    """

    name: ClassVar[str]
    next_step: ClassVar[str] = "the benchmark's own scorer on this folder; see docs/benchmarks.md"

    @abstractmethod
    def tasks(self) -> Sequence[Task]:
        """All videos, in a fixed order.

        Raises:
            InputError: the data of the benchmark is missing or not as published; the message names the file.
        """

    def warnings(self) -> Sequence[str]:
        """What to tell before anything is generated."""
        return ()

    def folder(self, condition: str) -> str:
        """Name of the folder of all videos of a condition, which the scorer is given."""
        return condition

    def is_scored(self, task: Task) -> bool:
        """Whether `score` has scores of a video; otherwise, as by default, only the published scorer has."""
        return False

    def score(self, task: Task, video: Frames) -> dict[str, float]:
        """The scores of a video, as it was written."""
        return {}

    def write_beside(self, folder: Path, task: Task, scores: Mapping[str, float]) -> None:
        """Write what the benchmark's scorer or readers expect beside a video; nothing by default."""
        return

    def finish(self, folder: Path, tasks: Sequence[Task]) -> None:
        """Write what the scorer needs when all videos are there; nothing by default."""
        return


def checked(tasks: Sequence[Task]) -> list[Task]:
    """The tasks, if there are any, each with an id and a file of its own.

    Raises `InputError` for none, and naming two tasks that share an id or a file.
    """
    if not tasks:
        raise InputError("The benchmark's data has no task; check the folder that is given as its data.")
    seen: dict[str, Task] = {}
    for task in tasks:
        for name in (f"id {task.id}", f"file {task.file}"):
            if (other := seen.setdefault(name, task)) is not task:
                raise InputError(f"The tasks {other.id!r} and {task.id!r} have the same {name}; rename one of them.")
    return list(tasks)
