"""STEVO-Bench's tasks answered by a trained run: a video each, and the map that its scorers read."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from memkit.video import first_frame, write_video
from recipes.common.backbones import load_whole
from recipes.common.training import pick_device
from recipes.remind.film import film, make_plan
from recipes.remind.generate import keyed_path
from recipes.remind.presets import Config
from recipes.remind.stevo import check_names, file_of, read_tasks, write_map
from recipes.remind.train import load_cameras


def answer(config: Config, folder: Path, noise_seed: int) -> int:
    """Write OUT/stevo/*.mp4 and ``output_map.json``; videos that are there are kept. The exit code.

    A run with cameras follows ``camera_control`` and reads ``camera_WM``; one without reads ``video_WM``. What
    interrupts the view is told in the prompt, and the model makes it. The seed of a task is ``noise_seed``.
    """
    tasks = read_tasks(folder)
    check_names(tasks)
    out = config.out / "stevo"
    out.mkdir(parents=True, exist_ok=True)
    lack = [task for task in tasks if not (out / file_of(task)).exists()]
    if lack:
        dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
        backbone = load_whole(config.model, config.threads, pick_device(config.device), config.out, dtype)
        positions = load_cameras(config, backbone, config.out).eval()
        for task in tqdm(lack, desc="stevo"):
            moves = config.cameras != "off"
            prompt = task.camera_prompt if moves else task.video_prompt
            path = keyed_path(task.path, config) if moves and task.path else None
            frame = first_frame(task.frame, config.height, config.width)
            plan = make_plan(config, backbone, frame, [prompt], path)
            write_video(out / file_of(task), film(config, backbone, positions, plan, noise_seed), config.fps)
            write_map(out, tasks)
    print(f"{write_map(out, tasks)}: {len(tasks)} tasks, {len(lack)} made now")
    return 0
