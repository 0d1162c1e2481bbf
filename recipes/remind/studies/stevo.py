"""Generate the videos of STEVO-Bench (arXiv 2603.13215), and the ``output_map.json`` that its scorers read.

    python -m recipes.remind.studies.stevo --preset wan2.1-1.3b --tasks DIR

DIR holds the published tasks at any depth: ``NAME/NAME.yaml`` with its first frame ``NAME_init_frame.png`` beside it.
A run without cameras uses the prompt ``video_WM`` of every task. A run with cameras uses ``camera_WM`` and the path of
``camera_control`` of one variant per scene, as in the benchmark (`memkit.prompts.stevo.camera_tasks`). STEVO-Bench's
own code scores the videos.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from memkit.backbones import WanBackbone
from memkit.cameras import cameras_from_stevo_keys, latent_cameras, level_camera
from memkit.errors import InputError
from memkit.files.atomic import write_text
from memkit.positions import PMRoPE
from memkit.prompts.stevo import Control, Task, camera_tasks, read_tasks, video_files
from memkit.training import load_backbone, report_done, run_command
from memkit.video import first_frame, write_video
from memkit.worlds.paths import FOV_DEGREES
from recipes.remind.presets import STRIDE, Command, Config, parse
from recipes.remind.sampler import Frames, load_cameras, plan_video, sample_video

OUTPUT_MAP = "output_map.json"


@dataclass(frozen=True)
class Stevo(Command):
    """The command line."""

    tasks: Path | None = None
    """Folder of the tasks."""
    control: Control = "HY-WorldPlay"
    """Model whose camera_control a run with cameras follows, always with the step sizes of HY-WorldPlay."""
    noise_seed: int = 42
    """Seed of the noise of every task."""


def output_folder(config: Config) -> Path:
    """Output folder. The scorers recognise a run with cameras by a name such as worldplay in that of the folder."""
    return config.out / ("stevo" if config.cameras == "off" else "stevo-worldplay-keys")


def write_map(folder: Path, tasks: Sequence[Task]) -> Path:
    """Write ``output_map.json``: the file name of the video, if it exists, by id of the task.

    Raises `InputError` if the folder has another JSON file, because the scorers read whichever there is.
    """
    file = folder / OUTPUT_MAP
    if others := sorted(other.name for other in folder.glob("*.json") if other != file):
        raise InputError(f"{folder} holds {others[0]}; the map is the only .json that may lie there. Move it away.")
    written = {id: name for id, name in video_files(tasks).items() if (folder / name).exists()}
    write_text(file, json.dumps(written, indent=1, ensure_ascii=False) + "\n")  # a checksum would be a task to them
    return file


def sample_task(command: Stevo, task: Task, backbone: WanBackbone, positions: PMRoPE) -> Frames:
    """The video of a task: with cameras 4·N + 1 frames for keys of N latent frames, without as long as a clip."""
    config = command.config
    frame = first_frame(task.frame, config.height, config.width)
    if config.cameras == "off":
        plan = plan_video(config, backbone, frame, [task.video_prompt], None)
        return sample_video(config, backbone, positions, plan, command.noise_seed)
    start = level_camera(config.height, config.width, FOV_DEGREES)
    cameras = cameras_from_stevo_keys(task.keys, start, frames_per_latent=STRIDE)
    plan = plan_video(config, backbone, frame, [task.camera_prompt], latent_cameras(cameras, STRIDE))
    return sample_video(config, backbone, positions, plan, command.noise_seed)[: len(cameras.c2w)]


def main(command: Stevo) -> int:
    """Write the missing videos and ``output_map.json``. Returns the exit code."""
    config = command.config
    if command.tasks is None:
        raise InputError("Give --tasks DIR, the folder of STEVO-Bench's tasks.")
    tasks = read_tasks(command.tasks, command.control)
    if config.cameras != "off":
        variants, tasks = len(tasks), camera_tasks(tasks)
        print(f"{variants} tasks are variants of {len(tasks)} scenes; a run with cameras answers each scene once")
    out, names = output_folder(config), video_files(tasks)
    out.mkdir(parents=True, exist_ok=True)
    write_map(out, tasks)
    missing = [task for task in tasks if not (out / names[task.id]).exists()]
    if missing:
        backbone = load_backbone(config, trained=config.out)
        positions = load_cameras(config, backbone, config.out).eval()
        for task in tqdm(missing, desc="stevo"):
            write_video(out / names[task.id], sample_task(command, task, backbone, positions), config.fps)
            write_map(out, tasks)
    print(f"{len(tasks)} tasks, {len(missing)} generated now")
    report_done(write_map(out, tasks), "STEVO-Bench's own scorers on this folder")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Stevo, __doc__)))
