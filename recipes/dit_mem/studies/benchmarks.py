"""Generate the videos of PhyGenBench and VBench, with the file names that their scorers expect (docs/benchmarks.md).

    python -m recipes.dit_mem.studies.benchmarks --preset wan2.1-1.3b --benchmark phygenbench --prompts prompts.json
    python -m recipes.dit_mem.studies.benchmarks --preset wan2.1-1.3b --benchmark vbench --prompts prompts_per_category/

The list of videos depends on the prompt files and the seed only. In the output folder, ``videos`` has only MP4 files
(VBench takes the suffix of all files from the first one), ``about`` has the settings of each video, and ``index.json``,
which is written last, has the list. Complete videos are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from memkit.display import counted
from memkit.errors import InputError
from memkit.files.json_files import write_json
from memkit.generation import VideoJob
from memkit.prompts import (
    PlannedVideo,
    plan_phygenbench,
    plan_vbench,
    read_augmented,
    read_phygenbench,
    read_vbench,
)
from memkit.prompts.phygenbench import VIDEO_NAME
from memkit.prompts.vbench import VIDEOS_PER_PROMPT
from memkit.training import report_done, run_command
from recipes.dit_mem.generate import generate_missing
from recipes.dit_mem.memories import Source
from recipes.dit_mem.presets import Command, parse


@dataclass(frozen=True)
class Benchmarks(Command):
    """The command line."""

    benchmark: Literal["phygenbench", "vbench"] = "phygenbench"
    """Benchmark whose videos to generate; its own code scores them."""
    prompts: Path | None = None
    """prompts.json of PhyGenBench; for VBench a folder of .txt files with one prompt per line, or one such file."""
    augmented: Path | None = None
    """File of longer prompts for VBench, line by line for those of --prompts, which is then one file. The videos keep
    the names of the original prompts."""
    first: int = 0
    """Number of prompts per file, for a trial; 0 takes all."""
    videos_per_prompt: int = VIDEOS_PER_PROMPT
    """Number of videos per prompt of VBench; its temporal_flickering needs 25."""
    video_name: str = VIDEO_NAME
    """File name of the videos of PhyGenBench; {n} is the number of the prompt, from 1."""
    memory: Source = "retrieved"
    """Memory of each prompt: its retrieved clips, random clips, or none."""
    bank: Path | None = None
    """Bank of the clips; by default the one that the encoder was trained on."""
    encoder_from: Path | None = None
    """Folder or hub id of the trained encoder; by default OUT/encoder."""
    videos_to: Path | None = None
    """Folder of the videos; by default OUT/BENCHMARK-MEMORY."""


def plan(options: Benchmarks) -> list[PlannedVideo]:
    """List all videos of the benchmark, from its prompt files."""
    others = {"phygenbench": ("videos_per_prompt", "augmented"), "vbench": ("video_name",)}[options.benchmark]
    for other in others:
        if getattr(options, other) != getattr(Benchmarks, other):
            raise InputError(f"--{other.replace('_', '-')} is not for {options.benchmark}; leave it out.")
    if options.prompts is None or options.first < 0:
        raise InputError(f"{options.benchmark} needs --prompts, its file or folder, and a --first of 0 or more.")
    count = options.first or None
    if options.benchmark == "phygenbench":
        return plan_phygenbench(read_phygenbench(options.prompts)[:count], options.config.seed, options.video_name)
    prompts = {category: texts[:count] for category, texts in read_vbench(options.prompts).items()}
    longer = {} if options.augmented is None else read_augmented(options.prompts, options.augmented)
    return plan_vbench(prompts, options.config.seed, options.videos_per_prompt, longer)


def main(options: Benchmarks) -> int:
    """Generate the missing videos. Returns the exit code."""
    config, planned = options.config, plan(options)
    folder = options.videos_to or config.out / f"{options.benchmark}-{options.memory}"
    prompts = counted(len({video.prompt for video in planned}), "prompt")
    print(f"{options.benchmark}: {prompts}, {counted(len(planned), 'video')}")
    jobs = [
        VideoJob(video.prompt, video.seed, folder / "videos" / video.file, folder / "about" / f"{video.key}.json")
        for video in planned
    ]
    generate_missing(config, jobs, options.memory, options.bank, options.encoder_from)
    write_json(folder / "index.json", [video._asdict() for video in planned])
    report_done(folder / "videos", "the benchmark's own scorer on this folder; see docs/benchmarks.md")
    return 0


if __name__ == "__main__":
    run_command(lambda: main(parse(Benchmarks, __doc__)))
