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

from tqdm import tqdm

from memkit.cameras import steps_from_keys
from memkit.cameras.keys import Step
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
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Stevo(Command):
    """The command line."""

    tasks: Path | None = None
    """Folder of the tasks."""
    noise_seed: int = 42
    """Seed of the noise of every task."""


@dataclass(frozen=True)
class Task:
    """One task. ``keys`` are empty where the camera stands."""

    id: str
    frame: Path
    video_prompt: str
    camera_prompt: str
    keys: tuple[Step, ...]

    @property
    def path(self) -> str:
        """The keys as text; empty where the camera stands."""
        return ", ".join(map(str, self.keys))


def read_tasks(folder: Path) -> list[Task]:
    """All tasks of a folder and its subfolders, by name.

    Raises `InputError` naming the file and the field that is missing or of another kind, or an id that comes twice.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".yaml", ".yml"))
    if not files:
        raise InputError(f"{folder} holds no task (*.yaml); give the folder of STEVO-Bench's tasks.")
    tasks = [read_task(file, folder) for file in files]
    seen: dict[str, Path] = {}
    for task, file in zip(tasks, files, strict=True):
        if task.id in seen:
            raise InputError(f"{seen[task.id]} and {file} have the id {task.id!r} both; give each its own.")
        seen[task.id] = file
    return tasks


def read_task(file: Path, folder: Path | None = None) -> Task:
    """One task; ``folder`` is that of all tasks. Raises `InputError` as `read_tasks` does."""
    folder = folder or file.parent
    content = _mapping(file, "the task", _loaded(file))
    prompts = _mapping(file, "prompts", content.get("prompts"))
    video = _text(file, "prompts.video_WM", prompts.get("video_WM"))
    # either place: whether camera_WM stands among the prompts or beside them is not told
    camera = prompts.get("camera_WM", content.get("camera_WM"))
    control = prompts.get("camera_control", content.get("camera_control"))
    keys = "" if control is None else _text(file, "camera_control", control, empty=True).strip()
    try:
        steps = steps_from_keys(keys) if keys else []
    except InputError as error:
        raise InputError(f"{file}: camera_control: {error}") from error
    name = content.get("id", content.get("task_id"))
    return Task(
        id=file.relative_to(folder).with_suffix("").as_posix() if name is None else str(name),
        frame=_frame(file, folder, content),
        video_prompt=video,
        camera_prompt=video if camera is None else _text(file, "prompts.camera_WM", camera),
        keys=tuple(steps),
    )


def file_of(task: Task) -> str:
    """The name of a task's video in the folder of all."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in task.id) + ".mp4"


def check_names(tasks: Sequence[Task]) -> None:
    """Raises `InputError` where two ids would have one file."""
    names: dict[str, str] = {}
    for task in tasks:
        if (other := names.setdefault(file_of(task), task.id)) != task.id:
            raise InputError(f"The tasks {other!r} and {task.id!r} would both be {file_of(task)}; rename one.")


def write_map(folder: Path, tasks: Sequence[Task]) -> Path:
    """``output_map.json``: of each task whose video is there, its id and the name of the file."""
    made = {task.id: file_of(task) for task in tasks if (folder / file_of(task)).exists()}
    file = folder / OUTPUT_MAP
    write_json(file, made)
    return file


def _loaded(file: Path) -> Any:
    import yaml  # only here: training and worlds do without

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read as YAML ({error}).") from error


def _mapping(file: Path, name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        raise InputError(f"{file}: {name} is missing; a task has prompts with video_WM, and an initial frame.")
    if not isinstance(value, Mapping):
        raise InputError(f"{file}: {name} is {type(value).__name__}, not a mapping.")
    return value


def _text(file: Path, name: str, value: Any, empty: bool = False) -> str:
    if value is None:
        raise InputError(f"{file}: {name} is missing.")
    if not isinstance(value, str) or not (value.strip() or empty):
        raise InputError(f"{file}: {name} is {value!r}, not a text.")
    return value


def _frame(file: Path, folder: Path, content: Mapping[str, Any]) -> Path:
    for field in _FRAME_FIELDS:
        if content.get(field) is None:
            continue
        named = _text(file, field, content[field])
        for base in (file.parent, folder):
            if (base / named).is_file():
                return base / named
        raise InputError(f"{file}: {field} names {named}, which lies neither in {file.parent} nor in {folder}.")
    for suffix in _PICTURES:
        if file.with_suffix(suffix).is_file():
            return file.with_suffix(suffix)
    raise InputError(
        f"{file}: initial_frame is missing, and no picture {file.stem}.png lies beside the task; give either."
    )


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
    lack = [task for task in tasks if not (out / file_of(task)).exists()]
    if lack:
        backbone = load_backbone(config, trained=config.out)
        positions = load_cameras(config, backbone, config.out).eval()
        for task in tqdm(lack, desc="stevo"):
            moves = config.cameras != "off"
            prompt = task.camera_prompt if moves else task.video_prompt
            path = keyed_path(task.path, config) if moves and task.path else None
            frame = first_frame(task.frame, config.height, config.width)
            plan = plan_video(config, backbone, frame, [prompt], path)
            write_video(
                out / file_of(task), sample_video(config, backbone, positions, plan, command.noise_seed), config.fps
            )
            write_map(out, tasks)
    print(f"{len(tasks)} tasks, {len(lack)} generated now")
    report_done(write_map(out, tasks), "STEVO-Bench's own scorers on this folder")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Stevo, __doc__)))
