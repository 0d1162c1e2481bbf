"""VBench and PhyGenBench: videos from prompts alone, with the file names that their scorers look for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from memkit.evaluation.benchmarks.task import Benchmark, Task, checked
from memkit.prompts.phygenbench import plan_phygenbench, read_phygenbench
from memkit.prompts.plan import PlannedVideo
from memkit.prompts.vbench import VIDEOS_PER_PROMPT, plan_vbench, read_augmented, read_vbench

SCORER_NAME = "output_video_{n}.mp4"
"""What PhyGenBench's own scorer looks for; DiT-Mem's release writes ``video_output_{n}.mp4``."""


@dataclass(frozen=True)
class VBench(Benchmark):
    """The prompts of VBench, each with several videos.

    Args:
        data: a folder of text files with one prompt per line, or one such file.
        augmented: a file of longer prompts, whose line i is generated for line i of ``data``, which is then one file.
            The videos keep the names of the original prompts.
        videos_per_prompt: number of videos per prompt; of temporal_flickering, 25.
    """

    data: Path
    augmented: Path | None = None
    videos_per_prompt: int = VIDEOS_PER_PROMPT

    name: ClassVar[str] = "vbench"

    def tasks(self) -> list[Task]:
        texts = {} if self.augmented is None else read_augmented(self.data, self.augmented)
        return tasks_of(plan_vbench(read_vbench(self.data), 0, self.videos_per_prompt, texts))


@dataclass(frozen=True)
class PhyGenBench(Benchmark):
    """The prompts of PhyGenBench, one video each.

    Args:
        data: its ``prompts.json``.
        video_name: file name of a video; {n} is the number of the prompt, from 1.
    """

    data: Path
    video_name: str = SCORER_NAME

    name: ClassVar[str] = "phygenbench"

    def tasks(self) -> list[Task]:
        return tasks_of(plan_phygenbench(read_phygenbench(self.data), 0, self.video_name))


def tasks_of(planned: Sequence[PlannedVideo]) -> list[Task]:
    """Planned videos as tasks."""
    return checked(
        [Task(video.key, ", ".join(video.categories), video.file, video.prompt, video.seed) for video in planned]
    )
