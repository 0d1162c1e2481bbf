"""MIND (arXiv 2602.08025): its data, the videos that its scorer reads, and its pixel scores of memory.

- *lcm* (long-context memory): a video of ``mem_test`` against the true one, frame by frame from ``mark_time``.
- *gsc* (generated scene consistency): the first half of a video of ``mirror_test``, whose camera goes along a path and
  back, against the second half in reverse.

The published scores of actions need ViPE, those of quality further models.

The published scorer reads videos in groups of 100 frames and drops the last group, whether it is full or not: a video
of 100 frames or fewer gets no lcm. `scored_frames` has this rule; scores here are of the same frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.banks.posed_clips import cropped
from memkit.cameras.cameras import Cameras
from memkit.cameras.level import level_camera
from memkit.cameras.stevo_keys import cameras_from_stevo_keys
from memkit.checks import MOST_FRAMES, check_number, check_whole
from memkit.errors import InputError
from memkit.evaluation.benchmarks.colmap import read_colmap
from memkit.evaluation.benchmarks.mind_data import Scene, read_frames, read_scene
from memkit.evaluation.benchmarks.pixels import MIND as SETTINGS
from memkit.evaluation.benchmarks.pixels import pixel_scores
from memkit.evaluation.benchmarks.task import Benchmark, Given, Task, checked
from memkit.video.frames import resize

VIEWS, TESTS = ("1st_data", "3rd_data"), ("mem_test", "action_space_test", "mirror_test")
SIZE = (720, 1280)
"""Height and width at which frames are scored."""
GROUP = 100
"""Frames that the published scorer reads at once."""
ACTION_FRAMES = 97
"""Frames of a video of ``action_space_test``."""
PATHS = ("w", "s", "a", "d", "left", "right", "up", "down", "wleft", "wright")
"""Keys of ``path-1`` to ``path-10`` of ``mirror_test``, held from its beginning to its turning point. The published
paths are not in the data: these are ours."""
FPS = 24.0
_METRES, _DEGREES, _PER_STEP = 0.08, 3.0, 4  # of a step of the keys, which takes as many frames


@dataclass(frozen=True)
class Mind(Benchmark):
    """The tasks of MIND: videos go on from all frames before ``mark_time``, along the true camera path.

    Args:
        data: the published folder, with ``1st_data`` and ``3rd_data``.
        tests: names of the tests, see `TESTS`.
        frames: largest number of frames of a video of ``mem_test``; by default all to the end of the true one.
        mirror_scenes: number of scenes per view that ``mirror_test`` has, each with ten paths, the first by name.
        mirror_frames: number of frames of a video of ``mirror_test``, an even one.
        fov_degrees: horizontal field of view of the data, which does not state it (our reading).
        metres_per_unit: length of a unit of ``images.txt``, which does not state it (our reading).
    """

    data: Path
    tests: tuple[str, ...] = TESTS
    frames: int | None = None
    mirror_scenes: int = 1
    mirror_frames: int = 98
    fov_degrees: float = 90.0
    metres_per_unit: float = 1.0

    name: ClassVar[str] = "mind"

    def __post_init__(self) -> None:
        if unknown := set(self.tests) - set(TESTS):
            raise InputError(f"MIND has no test {', '.join(sorted(unknown))}; choose among {', '.join(TESTS)}.")
        if self.frames is not None:
            check_whole("frames", self.frames, 1, MOST_FRAMES)
        check_whole("mirror_scenes", self.mirror_scenes, 0, MOST_FRAMES)
        check_whole("mirror_frames", self.mirror_frames, 2, MOST_FRAMES)
        check_number("metres_per_unit", self.metres_per_unit, 1e-6, 1e6)
        if self.mirror_frames % 2:
            raise InputError(f"mirror_frames is {self.mirror_frames}; a path and its mirror need an even number.")
        if self.frames is not None and "mem_test" in self.tests and not scored_frames(self.frames):
            raise InputError(
                f"frames is {self.frames}: MIND's scorer drops the last group of {GROUP} frames of a video of "
                f"mem_test, so {GROUP} frames or fewer get no score of long-context memory (lcm); give {GROUP + 1} or "
                "more, or leave mem_test out of --tests."
            )

    def tasks(self) -> list[Task]:
        return checked(list(self._tasks()))

    def _tasks(self) -> Iterator[Task]:
        for view in VIEWS:
            for test in self.tests:
                if test == "mirror_test":
                    yield from self._mirrors(view)
                    continue
                for scene in self._scenes(view, test):
                    most = self.frames if test == "mem_test" else ACTION_FRAMES
                    left = scene.total - scene.mark
                    length = left if most is None else min(most, left) if test == "mem_test" else most
                    name = f"{view}/{test}/{scene.folder.name}"
                    given = partial(self._given, scene, length)
                    yield Task(
                        name, test, f"{name}/video.mp4", scene.caption, given=given, kept=int(scene.mark == 0),
                        length=length, fps=FPS,
                    )  # fmt: skip

    def _mirrors(self, view: str) -> Iterator[Task]:
        for scene in self._scenes(view, "mem_test")[: self.mirror_scenes]:
            for number, keys in enumerate(PATHS, 1):
                name = f"{view}/mirror_test/{scene.folder.name}/path-{number}"
                given = partial(self._given_mirror, scene, keys)
                yield Task(
                    name, "mirror_test", f"{name}.mp4", scene.caption, given=given, kept=1,
                    length=self.mirror_frames, fps=FPS,
                )  # fmt: skip

    def warnings(self) -> list[str]:
        if "mem_test" not in self.tests:
            return []
        short = [f"{s.view}/{s.folder.name}" for view in VIEWS for s in self._scenes(view, "mem_test")
                 if not scored_frames(s.total - s.mark)]  # fmt: skip
        why = f"{GROUP} frames or fewer after mark_time, for which MIND's scorer has no lcm"
        return [f"{', '.join(short)}: {why}"] if short else []

    def _scenes(self, view: str, test: str) -> list[Scene]:
        place = self.data / view / "test" / test
        if not place.is_dir():
            raise InputError(f"{place} is missing; give the folder of MIND as published.")
        return [read_scene(view, test, folder) for folder in sorted(place.iterdir()) if folder.is_dir()]

    # -- what a video goes on from -------------------------------------------------------------------------------------

    def _given(self, scene: Scene, length: int, height: int, width: int) -> Given:
        """The frames before ``mark_time``, or the first one, and the cameras of all frames."""
        c2w = read_colmap(scene.folder / "images.txt")
        if len(c2w) < scene.total:
            raise InputError(f"{scene.folder} has {len(c2w)} poses for {scene.total} frames; download it again.")
        c2w[:, :3, 3] *= self.metres_per_unit
        rows = [min(row, len(c2w) - 1) for row in range(scene.mark + length)]
        return self._posed(scene, 0, max(1, scene.mark), c2w[rows], height, width)

    def _given_mirror(self, scene: Scene, keys: str, height: int, width: int) -> Given:
        """The frame at ``mark_time``, and a path from there and back."""
        half = self.mirror_frames // 2
        start = Cameras(torch.eye(4, dtype=torch.float64), level_camera(*SIZE, self.fov_degrees).intrinsics)
        text = f"{keys}-{max(1, -(-(half - 1) // _PER_STEP))}"
        path = cameras_from_stevo_keys(
            text, start, units_per_latent=_METRES, degrees_per_latent=_DEGREES, frames_per_latent=_PER_STEP
        )
        there = path.c2w[:half]
        return self._posed(scene, scene.mark, scene.mark + 1, torch.cat([there, there.flip(0)]), height, width)

    def _posed(self, scene: Scene, start: int, stop: int, c2w: Tensor, height: int, width: int) -> Given:
        """The frames ``start`` to ``stop`` of a scene, and cameras at these poses."""
        before = next(read_frames(scene.folder / "video.mp4", 0, 1)).shape[:2]
        frames = read_frames(scene.folder / "video.mp4", start, stop)
        sized = torch.cat([resize(frame[None], height, width) for frame in frames])
        intrinsics = cropped(level_camera(*before, self.fov_degrees).intrinsics, before, (height, width))
        return Given(sized, Cameras(c2w, intrinsics.expand(len(c2w), 4)))

    # -- scores --------------------------------------------------------------------------------------------------------

    def is_scored(self, task: Task) -> bool:
        if task.group == "mem_test":
            return scored_frames(task.length or 0) > 0
        return task.group == "mirror_test"

    def score(self, task: Task, video: UInt8[Tensor, "time height width 3"]) -> dict[str, float]:
        """``lcm mse``, ``lcm psnr`` and ``lcm ssim`` of a video of ``mem_test``, likewise gsc of ``mirror_test``."""
        if task.group == "mirror_test":
            return {f"gsc {key}": value for key, value in mirror_scores(video, SIZE).items()}
        view, _, name = task.id.split("/", 2)
        scene = read_scene(view, "mem_test", self.data / view / "test" / "mem_test" / name)
        frames = read_frames(scene.folder / "video.mp4", scene.mark, min(scene.total, scene.mark + len(video)))
        truth = torch.cat([resize(frame[None], *SIZE) for frame in frames])
        return {f"lcm {key}": value for key, value in memory_scores(video, truth, SIZE).items()}


def scored_frames(length: int) -> int:
    """How many frames of a video the published scorer compares: all but those of its last group of 100."""
    return max(0, (length - 1) // GROUP * GROUP)


def memory_scores(
    video: UInt8[Tensor, "time height width 3"],
    truth: UInt8[Tensor, "true trueheight truewidth 3"],
    size: tuple[int, int] = SIZE,
) -> dict[str, float]:
    """mse, psnr and ssim (lcm) of the frames that the published scorer compares; nothing for 100 frames or fewer.

    Both videos are scaled to cover ``size`` and cropped in the middle, and the shorter one decides the length.
    """
    count = scored_frames(min(len(video), len(truth)))
    return pixel_scores(resize(video[:count], *size), resize(truth[:count], *size), SETTINGS) if count else {}


def mirror_scores(video: UInt8[Tensor, "time height width 3"], size: tuple[int, int] = SIZE) -> dict[str, float]:
    """mse, psnr and ssim (gsc) of the first half of a video against the second half in reverse.

    Raises `InputError` for an odd number of frames.
    """
    if len(video) % 2:
        raise InputError(f"A video of {len(video)} frames has no halves; a path and its mirror need an even number.")
    frames = resize(video, *size)
    half = len(video) // 2
    return pixel_scores(frames[:half], frames[half:].flip(0), SETTINGS)
