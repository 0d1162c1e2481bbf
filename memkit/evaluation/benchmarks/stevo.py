"""STEVO-Bench (arXiv 2603.13215): videos from a first frame, and the one JSON file that its scorers read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from memkit.cameras.cameras import Cameras
from memkit.cameras.level import level_camera
from memkit.cameras.stevo_keys import cameras_from_stevo_keys
from memkit.checks import check_number
from memkit.errors import InputError
from memkit.evaluation.benchmarks.output import read_image
from memkit.evaluation.benchmarks.task import Benchmark, Given, Task, checked
from memkit.files.atomic import write_text
from memkit.prompts.stevo import Control, camera_tasks, read_tasks, video_files
from memkit.prompts.stevo import Task as StevoTask

OUTPUT_MAP = "output_map.json"


@dataclass(frozen=True)
class Stevo(Benchmark):
    """The tasks of STEVO-Bench.

    Args:
        data: the folder of the published tasks.
        cameras: whether the method follows cameras. It then answers one variant per scene with the path of its keys;
            otherwise all tasks, each with one chunk from the prompt ``video_WM``.
        control: the model whose keys a task with cameras follows, with the step sizes of HY-WorldPlay.
        fov_degrees: horizontal field of view of the first frames.
    """

    data: Path
    cameras: bool = True
    control: Control = "HY-WorldPlay"
    fov_degrees: float = 70.0

    name: ClassVar[str] = "stevo"

    def __post_init__(self) -> None:
        check_number("fov_degrees", self.fov_degrees, 1, 169)

    def folder(self, condition: str) -> str:
        """Runs with cameras are recognised by a name such as worldplay in that of the folder."""
        return f"{condition}-worldplay-keys" if self.cameras else condition

    def tasks(self) -> list[Task]:
        found = read_tasks(self.data, self.control)
        found = camera_tasks(found) if self.cameras else found
        files = video_files(found)
        return checked([self._task(task, files[task.id]) for task in found])

    def _task(self, task: StevoTask, file: str) -> Task:
        if not self.cameras:
            return Task(task.id, "stevo", file, task.video_prompt, given=partial(_still, task.frame), kept=1)
        start = level_camera(1, 1, self.fov_degrees)
        start = Cameras(torch.eye(4, dtype=torch.float64), start.intrinsics)
        path = cameras_from_stevo_keys(task.keys, start)
        given = partial(self._given, task.frame, path)
        return Task(task.id, "stevo", file, task.camera_prompt, given=given, kept=1, length=len(path.c2w))

    def _given(self, frame: Path, path: Cameras, height: int, width: int) -> Given:
        intrinsics = level_camera(height, width, self.fov_degrees).intrinsics
        return Given(read_image(frame, height, width)[None], Cameras(path.c2w, intrinsics.expand(len(path.c2w), 4)))

    def finish(self, folder: Path, tasks: Sequence[Task]) -> None:
        """``output_map.json``: the file of each task by its id.

        Raises `InputError` if the folder has another JSON file, because the scorers read whichever there is.
        """
        file = folder / OUTPUT_MAP
        if others := sorted(other.name for other in folder.glob("*.json") if other != file):
            raise InputError(f"{folder} holds {others[0]}; the map is the only .json that may lie there. Move it away.")
        written = {task.id: task.file for task in tasks if (folder / task.file).exists()}
        write_text(file, json.dumps(written, indent=1, ensure_ascii=False) + "\n")  # a checksum would be a task to them


def _still(frame: Path, height: int, width: int) -> Given:
    return Given(read_image(frame, height, width)[None], None)
