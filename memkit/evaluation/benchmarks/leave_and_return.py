"""The leave-and-return protocol of Echo-Memory (arXiv 2606.09803): the camera turns away and comes back.

From one picture, chunks are generated while the camera turns on the spot, each by its degrees, evenly over its frames.
At the end it looks where it began, so the last frame is compared with the picture (MSE, PSNR, SSIM). That score alone
is cheated by a video that stands still. In a *replay*, the camera follows the recorded path of a video, and all
generated frames are compared with those of the video.

The published scores of what is seen need a vision-language model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from memkit.banks.posed_clips import check_count, cropped
from memkit.cameras.cameras import Cameras
from memkit.cameras.level import level_camera
from memkit.cameras.pose_files import poses_beside, read_poses
from memkit.checks import MOST_FRAMES, check_number, check_whole
from memkit.errors import InputError
from memkit.evaluation.benchmarks.output import IMAGES, read_image
from memkit.evaluation.benchmarks.pixels import ECHO, pixel_scores
from memkit.evaluation.benchmarks.task import Benchmark, Given, Task, checked
from memkit.files.atomic import write_text
from memkit.files.names import file_names
from memkit.video.frames import read_video, resize

SCHEDULES: dict[str, tuple[float, ...]] = {
    "right45_return_2chunk": (-45.0, 45.0),
    "rot180_4chunk": (45.0, 45.0, -45.0, -45.0),
    "rot360_8chunk": (45.0,) * 8,
}
"""Degrees to the left per chunk, by the authors' names."""
SIZE = (352, 640)
"""Height and width at which frames are scored."""
CHUNK_FRAMES = 81
"""Frames of the authors' chunks."""
VIDEO_NAME, METRICS_NAME = "revisit_gen_only.mp4", "stage1_metrics.json"
REPLAY = "replay"
_VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi")


@dataclass(frozen=True)
class LeaveAndReturn(Benchmark):
    """The tasks: each schedule from each picture of a folder, and a replay of each video with poses beside it.

    Args:
        data: folder of pictures and videos. A text file of the same name with the suffix ``.prompt`` has the prompt of
            one of them alone.
        prompt: the prompt of all others. The authors have one for their eight pictures.
        schedules: names of `SCHEDULES`.
        chunk_frames: frames in which the camera makes one turn of a schedule; turns share a frame. A model of shorter
            clips makes several of them per turn.
        fov_degrees: horizontal field of view of the pictures.
    """

    data: Path
    prompt: str = ""
    schedules: tuple[str, ...] = tuple(SCHEDULES)
    chunk_frames: int = CHUNK_FRAMES
    fov_degrees: float = 70.0

    name: ClassVar[str] = "return"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.schedules if name not in SCHEDULES]:
            raise InputError(f"There is no schedule {', '.join(unknown)}; choose among {', '.join(SCHEDULES)}.")
        check_whole("chunk_frames", self.chunk_frames, 2, MOST_FRAMES)
        check_number("fov_degrees", self.fov_degrees, 1, 169)

    def tasks(self) -> list[Task]:
        return checked(list(self._tasks()))

    def _tasks(self) -> Iterator[Task]:
        files = self._files()
        for name, file in files.items():
            if file.suffix.lower() not in IMAGES:
                yield self._replay(name, file)
        for schedule in self.schedules:
            turns, per_chunk = SCHEDULES[schedule], self.chunk_frames - 1
            for name, file in files.items():
                if file.suffix.lower() in IMAGES:
                    given = partial(self._given, file, turns)
                    output = f"{schedule}/{name}/{VIDEO_NAME}"
                    length = per_chunk * len(turns)
                    yield Task(f"{name}/{schedule}", schedule, output, self._prompt(file), given=given, length=length)

    def _files(self) -> dict[str, Path]:
        """Pictures and videos by their names, which no two share."""
        if not self.data.is_dir():
            raise InputError(f"{self.data} is no folder; give one of pictures, or of videos with poses beside them.")
        found = sorted(file for file in self.data.iterdir() if file.suffix.lower() in (*IMAGES, *_VIDEOS))
        by_stem: dict[str, Path] = {}
        for file in found:
            if (other := by_stem.setdefault(file.stem, file)) != file:
                raise InputError(f"{other} and {file} have the same name; rename one of them.")
        return {name: by_stem[stem] for stem, name in file_names(by_stem).items()}

    def _prompt(self, file: Path) -> str:
        own = file.with_suffix(".prompt")
        return own.read_text(encoding="utf-8").strip() if own.is_file() else self.prompt

    # -- what a video goes on from -------------------------------------------------------------------------------------

    def _given(self, file: Path, turns: Sequence[float], height: int, width: int) -> Given:
        image = read_image(file, height, width)
        start = level_camera(height, width, self.fov_degrees)
        yaw = schedule_degrees(turns, self.chunk_frames)
        c2w = torch.stack([turned(start.c2w, float(degrees)) for degrees in yaw])
        return Given(image[None], Cameras(c2w, start.intrinsics.expand(len(c2w), 4)))

    def _replay(self, name: str, file: Path) -> Task:
        poses = poses_beside(file)
        if poses is None:
            raise InputError(f"{file} has no poses beside it; write {file.stem}.npz (docs/poses.md), or move it away.")
        cameras = read_poses(poses)
        given = partial(_given_replay, file, poses)
        output = f"{REPLAY}/{name}/{VIDEO_NAME}"
        length = len(cameras.c2w) - 1
        return Task(f"{name}/{REPLAY}", REPLAY, output, self._prompt(file), given=given, length=length)

    # -- scores --------------------------------------------------------------------------------------------------------

    def is_scored(self, task: Task) -> bool:
        return True

    def score(self, task: Task, video: UInt8[Tensor, "time height width 3"]) -> dict[str, float]:
        """``mse`` (0 to 255²), ``psnr`` (dB, 100 at most) and ``ssim``: last frame and picture, or all of a replay."""
        name = task.id.rsplit("/", 1)[0]
        file = self._files()[name]
        if task.group == REPLAY:
            truth = read_video(file).frames[1 : len(video) + 1]
            return pixel_scores(scored(video, SIZE), scored(truth, SIZE), ECHO)
        return return_scores(video[-1], read_image(file), SIZE)

    def write_beside(self, folder: Path, task: Task, scores: Mapping[str, float]) -> None:
        """``stage1_metrics.json`` beside the video. The names in it are ours: the published ones were not found."""
        write_text((folder / task.file).with_name(METRICS_NAME), json.dumps(dict(scores), indent=1) + "\n")


def return_scores(
    last: UInt8[Tensor, "height width 3"],
    first: UInt8[Tensor, "oldheight oldwidth 3"],
    size: tuple[int, int] | None = SIZE,
) -> dict[str, float]:
    """mse, psnr and ssim of the frame after the return and the picture before, both stretched to ``size``.

    ``size`` None compares them as they are. Raises `InputError` where they then differ in size.
    """
    pair = last[None], first[None]
    return pixel_scores(*(each if size is None else scored(each, size) for each in pair), ECHO)


def scored(
    frames: UInt8[Tensor, "time height width 3"], size: tuple[int, int] = SIZE
) -> UInt8[Tensor, "time newheight newwidth 3"]:
    """Frames stretched to the size at which they are scored, by Pillow's bicubic filter (its default)."""
    from PIL import Image

    if tuple(frames.shape[1:3]) == size:
        return frames
    images = [Image.fromarray(frame).resize((size[1], size[0])) for frame in frames.cpu().numpy()]
    return torch.from_numpy(np.stack([np.array(image) for image in images]))


def schedule_degrees(turns: Sequence[float], chunk_frames: int) -> Float64[Tensor, " frames"]:
    """Degrees to the left at each frame of a schedule, linear in each chunk; chunks share a frame."""
    ends = [sum(turns[:count]) for count in range(len(turns) + 1)]
    parts = [torch.linspace(a, b, chunk_frames, dtype=torch.float64)[1:] for a, b in pairwise(ends)]
    return torch.cat([torch.zeros(1, dtype=torch.float64), *parts])


def turned(c2w: Float64[Tensor, "4 4"], degrees: float) -> Float64[Tensor, "4 4"]:
    """A camera turned to the left about its own vertical axis."""
    angle = torch.deg2rad(torch.tensor(-degrees, dtype=torch.float64))  # about y, which points down, to the right
    c, s = angle.cos(), angle.sin()
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = c, s, -s, c
    return c2w.double() @ turn


def _given_replay(file: Path, poses: Path, height: int, width: int) -> Given:
    frames, cameras = read_video(file).frames, read_poses(poses)
    check_count(poses, cameras, file, len(frames))
    intrinsics = cropped(cameras.intrinsics, frames.shape[1:3], (height, width))
    return Given(resize(frames[:1], height, width), Cameras(cameras.c2w, intrinsics))
