"""STEVO-Bench (arXiv 2603.13215): one video per task, and the ``output_map.json`` that its scorers read.

    python -m recipes.remind.studies.stevo --preset wan2.1-1.3b --tasks DIR

A task is a YAML file with ``prompts`` (``video_WM``, and ``camera_WM`` for models that take a camera path),
``camera_control`` such as "s-3, right-20, left-20" (`memkit.cameras.keys`), and an initial frame. Where its first
frame lies is not published: a field ``initial_frame``, ``init_frame``, ``first_frame`` or ``image`` names it,
from the folder of the task or of all tasks, or a picture lies beside the task under its name. The id of a task
is its ``id`` or ``task_id``, else the path of its file without the suffix. The scorers are
STEVO-Bench's own; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from memkit.cameras import steps_from_keys
from memkit.errors import InputError
from memkit.video import first_frame, write_video
from recipes.common.backbones import load_backbone
from recipes.common.commands import report_done, run_command
from recipes.common.json_file import write_json
from recipes.remind.generate import keyed_path
from recipes.remind.presets import Command, parse
from recipes.remind.sampler import plan_video, sample_video
from recipes.remind.train import load_cameras

OUTPUT_MAP = "output_map.json"
_FRAME_FIELDS = ("initial_frame", "init_frame", "first_frame", "image")


@dataclass(frozen=True)
class Stevo(Command):
    """The command line."""

    tasks: Path | None = None
    """Folder of the tasks."""
    noise_seed: int = 42
    """Seed of the noise of every task."""


@dataclass(frozen=True)
class Task:
    """One task. ``path`` are keys, empty where the camera stands."""

    id: str
    frame: Path
    video_prompt: str
    camera_prompt: str
    path: str

    @property
    def file(self) -> str:
        """The name of its video."""
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in self.id) + ".mp4"


def read_tasks(folder: Path) -> list[Task]:
    """All tasks of a folder and its subfolders, by name.

    Raises `InputError` naming the file and the field that is missing or of another kind, or two tasks with one id.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".yaml", ".yml"))
    if not files:
        raise InputError(f"{folder} holds no task (*.yaml); give the folder of STEVO-Bench's tasks.")
    tasks = [read_task(file, folder) for file in files]
    seen: dict[str, Path] = {}
    for task, file in zip(tasks, files, strict=True):
        if seen.setdefault(task.id, file) != file:
            raise InputError(f"{seen[task.id]} and {file} have the id {task.id!r} both; give each its own.")
    return tasks


def read_task(file: Path, folder: Path) -> Task:
    """One task; ``folder`` is that of all tasks. Raises `InputError` as `read_tasks` does."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read as YAML ({error}).") from error
    content = _a(Mapping, file, "the task", content)
    prompts = _a(Mapping, file, "prompts", content.get("prompts"))
    video = _text(file, "prompts.video_WM", prompts.get("video_WM"))
    # either place: whether camera_WM stands among the prompts or beside them is not told
    camera = _first(prompts.get("camera_WM"), content.get("camera_WM"), video)
    control = _first(prompts.get("camera_control"), content.get("camera_control"), "")
    keys = _a(str, file, "camera_control", control).strip()
    try:
        steps = steps_from_keys(keys) if keys else []
    except InputError as error:
        raise InputError(f"{file}: camera_control: {error}") from error
    return Task(
        id=str(_first(content.get("id"), content.get("task_id"), file.relative_to(folder).with_suffix("").as_posix())),
        frame=_frame(file, folder, content),
        video_prompt=video,
        camera_prompt=_text(file, "prompts.camera_WM", camera),
        path=", ".join(map(str, steps)),
    )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _a(kind: type, file: Path, name: str, value: Any) -> Any:
    if not isinstance(value, kind):
        what = "missing" if value is None else f"{value!r}, not text" if kind is str else f"{type(value).__name__}"
        raise InputError(f"{file}: {name} is {what}; a task has prompts with video_WM, and an initial frame.")
    return value


def _text(file: Path, name: str, value: Any) -> str:
    if not _a(str, file, name, value).strip():
        raise InputError(f"{file}: {name} is {value!r}; give a text that is not blank.")
    return value


def _frame(file: Path, folder: Path, content: Mapping[str, Any]) -> Path:
    for field in _FRAME_FIELDS:
        if content.get(field) is not None:
            named = _text(file, field, content[field])
            found = [base / named for base in (file.parent, folder) if (base / named).is_file()]
            if not found:
                raise InputError(f"{file}: {field} names {named}, which is neither in {file.parent} nor in {folder}.")
            return found[0]
    beside = [file.with_suffix(suffix) for suffix in (".png", ".jpg", ".jpeg", ".webp")]
    if found := [picture for picture in beside if picture.is_file()]:
        return found[0]
    raise InputError(f"{file}: initial_frame is missing, and no picture {beside[0].name} lies beside the task.")


def check_names(tasks: Sequence[Task]) -> None:
    """Raise `InputError` where two tasks would have one file."""
    names: dict[str, str] = {}
    for task in tasks:
        if (other := names.setdefault(task.file, task.id)) != task.id:
            raise InputError(f"The tasks {other!r} and {task.id!r} would both be {task.file}; rename one.")


def write_map(folder: Path, tasks: Sequence[Task]) -> Path:
    """``output_map.json``: the id of each task whose video exists, and the name of the video."""
    file = folder / OUTPUT_MAP
    write_json(file, {task.id: task.file for task in tasks if (folder / task.file).exists()})
    return file


def main(command: Stevo) -> int:
    """Write OUT/stevo/*.mp4 and ``output_map.json``; existing videos are kept. Returns the exit code.

    A run with cameras follows ``camera_control`` and reads ``camera_WM``; one without reads ``video_WM``. The prompt
    describes what interrupts the view, and the model generates it.
    """
    config = command.config
    if command.tasks is None:
        raise InputError("Give --tasks DIR, the folder of STEVO-Bench's tasks.")
    tasks = read_tasks(command.tasks)
    check_names(tasks)
    out = config.out / "stevo"
    out.mkdir(parents=True, exist_ok=True)
    missing = [task for task in tasks if not (out / task.file).exists()]
    if missing:
        backbone = load_backbone(config, trained=config.out)
        positions = load_cameras(config, backbone, config.out).eval()
        for task in tqdm(missing, desc="stevo"):
            moves = config.cameras != "off"
            prompt = task.camera_prompt if moves else task.video_prompt
            path = keyed_path(task.path, config) if moves and task.path else None
            frame = first_frame(task.frame, config.height, config.width)
            plan = plan_video(config, backbone, frame, [prompt], path)
            frames = sample_video(config, backbone, positions, plan, command.noise_seed)
            write_video(out / task.file, frames, config.fps)
            write_map(out, tasks)
    print(f"{len(tasks)} tasks, {len(missing)} generated now")
    report_done(write_map(out, tasks), "STEVO-Bench's own scorers on this folder")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Stevo, __doc__)))
