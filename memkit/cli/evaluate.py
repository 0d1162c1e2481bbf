"""``memkit evaluate``: a published benchmark with any mechanism of memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memkit.errors import InputError

if TYPE_CHECKING:
    from memkit.evaluation.benchmarks.run import BenchmarkRun
    from memkit.evaluation.benchmarks.task import Benchmark

_OPTIONS = (
    "frames", "fov_degrees", "prompt", "schedules", "chunk_frames", "tests", "mirror_scenes", "mirror_frames",
    "metres_per_unit", "parts", "phases", "augmented", "videos_per_prompt", "video_name", "cameras", "control",
)  # fmt: skip
"""Flags that are passed on to a benchmark."""
_CHOOSE = ("schedules", "tests", "mirror_scenes", "parts", "phases", "videos_per_prompt", "augmented")
"""Those that choose videos or name files, and change no video; a row has the prompt of its video."""


@dataclass(frozen=True)
class Evaluate:
    """Generate the videos of a published benchmark, in the folders and with the names that its scorer reads, and score
    what needs no other model. A command that was stopped goes on at the next missing video (docs/benchmarks.md).

    Modules of your own are found in the current folder, too.
    """

    benchmark: Literal["memobench", "mind", "return", "vbench", "phygenbench", "stevo"]
    """The benchmark; "return" is the leave-and-return protocol of Echo-Memory."""
    data: Path
    """Its published data: a folder, or for the benchmarks of prompts alone their file."""
    out: Path | None = None
    """Folder of the results; by default out/BENCHMARK."""
    method: str = "none"
    """none, cameras, window, fov, framepack or queries; or the path to your class or function, such as
    my_module:MyMethod, which takes the backbone and returns a ContextMethod or what has attach()."""
    name: str | None = None
    """Name of the results in tables and folders; by default that of the method."""
    weights: Path | None = None
    """Folder of a trained run, with its transformer, its method, or both."""
    score_only: bool = False
    """Generate nothing, and score the videos that are in OUT/NAME."""
    first: int | None = None
    """Number of videos, for a trial; by default all."""

    model: str = "tiny"
    """The backbone: "tiny", a diffusers folder, or a hub id."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of computation."""
    device: str = "auto"
    """"auto" is CUDA if it is available."""
    threads: int = 0
    """CPU threads; 0 leaves the number to torch."""
    sampling_steps: int = 50
    """Steps of the sampler."""
    guidance_scale: float = 5.0
    """Scale of text guidance; 1 is none."""
    negative_prompt: str = ""
    """Negative prompt of text guidance."""
    context_frames: int = 20
    """Number of past latent frames that a chunk sees."""
    history_guidance: float = 1.0
    """Scale of history guidance of "window"."""
    budget: int | None = None
    """Largest size in bytes of the past latents; by default there is no limit."""
    seed: int = 42
    """Seed of the noise."""

    frames: int | None = None
    """memobench, mind: number of frames per video, at most; by default those of the true one."""
    fov_degrees: float | None = None
    """mind, return, stevo: horizontal field of view where the data does not state it."""
    prompt: str | None = None
    """return: the prompt."""
    schedules: tuple[str, ...] | None = None
    """return: right45_return_2chunk, rot180_4chunk, rot360_8chunk; by default all."""
    chunk_frames: int | None = None
    """return: frames per turn of a schedule, 81 by default."""
    tests: tuple[str, ...] | None = None
    """mind: mem_test, action_space_test, mirror_test; by default all."""
    mirror_scenes: int | None = None
    """mind: scenes per view of mirror_test, 1 by default."""
    mirror_frames: int | None = None
    """mind: frames of a video of mirror_test, 98 by default."""
    metres_per_unit: float | None = None
    """mind: length of a unit of the poses, 1 by default."""
    parts: tuple[str, ...] | None = None
    """memobench: synthetic, real; by default both."""
    phases: tuple[Path, ...] | None = None
    """memobench: tables of exits and re-entries; by default those in the data."""
    augmented: Path | None = None
    """vbench: a file of longer prompts, line by line for those of the data, which is then one file."""
    videos_per_prompt: int | None = None
    """vbench: videos per prompt, 5 by default; its temporal_flickering needs 25."""
    video_name: str | None = None
    """phygenbench: file name with {n} for the number of the prompt, by default that of its own scorer."""
    cameras: bool | None = None
    """stevo: whether the method follows cameras; by default all do but none."""
    control: Literal["HY-WorldPlay", "lingbot", "Genie"] | None = None
    """stevo: the model whose keys are followed, HY-WorldPlay by default."""

    def run(self) -> int:
        from memkit.evaluation.benchmarks.run import BenchmarkRun, read_conditions, tables
        from memkit.evaluation.tables import write_tables

        sys.path.insert(0, str(Path.cwd()))
        benchmark, options = self._benchmark()
        tasks = list(benchmark.tasks())[: self.first]
        for text in benchmark.warnings():
            print(f"memkit: {benchmark.name}: {text}", file=sys.stderr)
        out, name = self.out or Path("out") / self.benchmark, self._name()
        if self.score_only:
            run = BenchmarkRun(benchmark, tasks, out, name, {"videos": "of another program", **options})
            absent = run.score_existing()
            for task in absent:
                print(f"{run.folder / task.file} is missing", file=sys.stderr)
        else:
            run, absent = self._generate(benchmark, tasks, out, name, options), []
        if found := tables(read_conditions(out)):
            write_tables(out / "tables.json", found, digits=lambda title: 3)
        print(f"{run.folder}: {len(tasks) - len(absent)} of {len(tasks)} videos. Next: {benchmark.next_step}")
        return 1 if absent else 0

    def _benchmark(self) -> tuple[Benchmark, dict[str, Any]]:
        """The benchmark, and its settings that its videos depend on. Raises `InputError` for flags of another one."""
        from memkit.evaluation.benchmarks import BENCHMARKS

        kind = BENCHMARKS[self.benchmark]
        given = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        known = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
        if other := [name for name in given if name not in known]:
            raise InputError(f"--{other[0].replace('_', '-')} is not for {self.benchmark}; leave it out.")
        if self.benchmark == "stevo":
            given.setdefault("cameras", self.method != "none")
        if self.first is not None and self.first < 1:
            raise InputError(f"--first is {self.first}; give 1 or more.")
        benchmark: Any = kind(data=self.data, **given)
        return benchmark, {name: getattr(benchmark, name) for name in sorted(known - {"data", *_CHOOSE})}

    def _name(self) -> str:
        from memkit.files.names import file_names

        name = self.name or self.method.replace(":", ".")
        return file_names([name])[name]

    def _generate(
        self, benchmark: Benchmark, tasks: list[Any], out: Path, name: str, options: dict[str, Any]
    ) -> BenchmarkRun:
        from torch import nn

        from memkit.evaluation.benchmarks.generate import RolloutMaker
        from memkit.evaluation.benchmarks.methods import make_method
        from memkit.evaluation.benchmarks.run import BenchmarkRun
        from memkit.rollout.base import ContextMethod
        from memkit.training.load import load_backbone
        from memkit.training.loop import fingerprint
        from memkit.training.settings import RunSettings

        run_settings = RunSettings(model=self.model, dtype=self.dtype, device=self.device, threads=self.threads)
        trained = self.weights if self.weights and (self.weights / "transformer").exists() else None
        backbone = load_backbone(run_settings, trained=trained)
        method = make_method(self.method, backbone, self.weights, self.context_frames, self.history_guidance)
        parts = [part for part in (*backbone.transformers, method) if isinstance(part, nn.Module)]
        names = ("method", "model", "dtype", "sampling_steps", "guidance_scale", "negative_prompt", "context_frames")
        names += ("history_guidance", "budget", "seed")
        settings = {name: getattr(self, name) for name in names} | options | {"weights": fingerprint(*parts)}
        run = BenchmarkRun(benchmark, tasks, out, name, settings)
        sampling = self.sampling_steps, self.guidance_scale, self.negative_prompt, self.budget
        maker = RolloutMaker(backbone, method, *sampling) if isinstance(method, ContextMethod) else method
        run.generate(maker, self.seed, backbone.video_format.fps)
        return run
