"""Runs of MemLearner's recipe for tests, and own videos to prepare."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from memkit.cameras import Cameras, write_poses
from memkit.video import write_video
from recipes.memlearner import train
from tests.helpers.training_runs import finished

CHUNKS = 3
trained = partial(finished, train)


def videos_in(folder: Path, frames: int = 20) -> Path:
    folder.mkdir()
    video = torch.randint(0, 256, (frames, 40, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(folder / "walk.mp4", video, 8.0)
    write_video(folder / "lost.mp4", video, 8.0)
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    c2w[:, 0, 3] = torch.arange(frames)
    write_poses(folder / "walk.npz", Cameras(c2w, torch.tensor([0.8, 1.0, 0.5, 0.5]).double().expand(frames, 4)))
    captions = folder / "captions.csv"
    captions.write_text("video,caption\nwalk.mp4,a walk\nlost.mp4,no poses\n")
    return captions
