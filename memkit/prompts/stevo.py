"""STEVO-Bench (arXiv 2603.13215): its tasks, and the videos that its scorers look for.

The published tasks lie at any depth of a folder: ``NAME/NAME.yaml`` with the first frame ``NAME_init_frame.png`` beside
it. A model without cameras answers every task with ``video_prompt``; one with cameras answers the variant of each scene
that `camera_tasks` gives, with ``camera_prompt`` and the path of ``keys``.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from memkit.cameras.stevo_keys import steps_from_stevo_keys
from memkit.errors import InputError
from memkit.files.names import file_names

Control = Literal["HY-WorldPlay", "lingbot", "Genie"]

DEFAULT_KEYS = "s-3, right-10, left-20, right-10"
"""The path of the benchmark's own runner where a task states none."""
_VARIANT = re.compile(r"_(cardboard|curtain|lightoff|00)$")


@dataclass(frozen=True)
class Task:
    """One task. ``camera_prompt`` may be empty; ``keys`` are those of `memkit.cameras.cameras_from_stevo_keys`."""

    id: str
    frame: Path
    video_prompt: str
    camera_prompt: str
    keys: str


def read_tasks(folder: Path, control: Control = "HY-WorldPlay") -> list[Task]:
    """All tasks of a folder and its subfolders, by file.

    Raises `InputError` naming the file and the field that is missing or of another kind, or two tasks with one id.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".yaml", ".yml"))
    if not files:
        raise InputError(f"{folder} holds no task (*.yaml); give the folder of STEVO-Bench's tasks.")
    tasks = [read_task(file, control) for file in files]
    seen: dict[str, Path] = {}
    for task, file in zip(tasks, files, strict=True):
        if seen.setdefault(task.id, file) != file:
            raise InputError(f"{seen[task.id]} and {file} have the id {task.id!r} both; give each its own.")
    return tasks


def read_task(file: Path, control: Control = "HY-WorldPlay") -> Task:
    """One task. Its id is ``id``, else the name of its file; names of prompts and of models match in any case.

    Where ``camera_WM`` is missing, ``video_WM`` stands for it; it may be empty, where nothing has to be set going.

    Raises `InputError` as `read_tasks` does.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except Exception as error:  # yaml raises whatever the types raise that a text asks for, such as dates
        raise InputError(f"{file} cannot be read as YAML ({error}); download it again.") from error
    content = _a(Mapping, file, "the task", content)
    prompts = _any_case(file, "prompts", content.get("prompts"))
    video = _a(str, file, "prompts.video_WM", prompts.get("video_wm"))
    if not video.strip():
        raise InputError(f"{file}: prompts.video_WM is {video!r}; give a text that is not blank.")
    camera = prompts.get("camera_wm")
    id = content.get("id")
    if not (id is None or isinstance(id, (str, float)) or (isinstance(id, int) and id.bit_length() <= 64)):
        raise InputError(f"{file}: id is {reprlib.repr(id)}; give a text.")
    return Task(
        id=file.stem if id is None or not str(id).strip() else str(id),
        video_prompt=video,
        camera_prompt=video if camera is None else _a(str, file, "prompts.camera_WM", camera),
        keys=_keys(file, content.get("camera_control"), control),
        frame=_frame(file),
    )


def _a(kind: type, file: Path, name: str, value: Any) -> Any:
    if not isinstance(value, kind):
        what = (
            "missing"
            if value is None
            else f"{reprlib.repr(value)}, not text"
            if kind is str
            else f"{type(value).__name__}"
        )
        raise InputError(f"{file}: {name} is {what}; a task is a mapping that has prompts with video_WM.")
    return value


def _any_case(file: Path, name: str, value: Any) -> dict[str, Any]:
    """A mapping with its names in lower case."""
    found: dict[str, Any] = {}
    for key, item in _a(Mapping, file, name, value).items():
        other = found.setdefault(key.lower() if isinstance(key, str) else reprlib.repr(key), item)
        if other is not item and not (isinstance(other, str) and other == item):  # aliases may be huge to compare
            raise InputError(f"{file}: {name} has {key} twice, in other letter cases; keep one.")
    return found


def _keys(file: Path, controls: Any, control: Control) -> str:
    if controls is not None and not isinstance(controls, Mapping):
        raise InputError(
            f"{file}: camera_control is {reprlib.repr(controls)}; it maps names of models "
            f"({', '.join(get_args(Control))}) to keys."
        )
    name = f"camera_control.{control}"
    stated = _any_case(file, "camera_control", controls or {}).get(control.lower())
    keys = ("" if stated is None else _a(str, file, name, stated)).strip() or DEFAULT_KEYS
    try:
        steps_from_stevo_keys(keys)
    except InputError as error:
        raise InputError(f"{file}: {name}: {error}") from error
    return keys


def _frame(file: Path) -> Path:
    names = [f"{file.stem}_init_frame{suffix}" for suffix in (".png", ".jpg", ".jpeg")]
    if found := [file.parent / name for name in names if (file.parent / name).is_file()]:
        return found[0]
    raise InputError(f"{file}: its first frame {names[0]} is missing; put it beside the task.")


def camera_tasks(tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a run with cameras: the first variant of each scene, by id, under the id of the scene.

    Variants differ in what interrupts the view (``_cardboard``, ``_curtain``, ``_lightoff``, or nothing, ``_00``), and
    here the camera interrupts it.
    """
    scenes: dict[str, Task] = {}
    for task in sorted(tasks, key=lambda task: task.id):
        scene = _VARIANT.sub("", task.id)
        scenes.setdefault(scene, replace(task, id=scene))
    return list(scenes.values())


def video_files(tasks: Sequence[Task]) -> dict[str, str]:
    """The name of the video of each task, by its id."""
    return {id: f"{name}.mp4" for id, name in file_names(task.id for task in tasks).items()}
