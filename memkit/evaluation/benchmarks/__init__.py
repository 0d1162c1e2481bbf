"""Published benchmarks: what they ask for, the files that their scorers read, and the scores that need no other model.

    benchmark = LeaveAndReturn(Path("pictures"), prompt="a bear in a forest", schedules=("rot180_4chunk",))
    run = BenchmarkRun(benchmark, benchmark.tasks(), Path("out"), "window", settings)
    rows = run.generate(RolloutMaker(backbone, method), seed=42, fps=16)
    print(tables([rows]))

or ``memkit evaluate``. A further benchmark is a subclass of `Benchmark` and a line in `BENCHMARKS`.
"""

from memkit.evaluation.benchmarks.generate import RolloutMaker
from memkit.evaluation.benchmarks.leave_and_return import LeaveAndReturn, return_scores
from memkit.evaluation.benchmarks.memobench import MemoBench
from memkit.evaluation.benchmarks.methods import VideoMaker, WithAttached, make_method
from memkit.evaluation.benchmarks.mind import Mind
from memkit.evaluation.benchmarks.pixels import PixelSettings, pixel_scores
from memkit.evaluation.benchmarks.prompts_alone import PhyGenBench, VBench
from memkit.evaluation.benchmarks.run import BenchmarkRun, VideoRow, read_conditions, tables
from memkit.evaluation.benchmarks.stevo import Stevo
from memkit.evaluation.benchmarks.task import Benchmark, Given, Task

BENCHMARKS: dict[str, type[Benchmark]] = {
    kind.name: kind for kind in (MemoBench, Mind, LeaveAndReturn, VBench, PhyGenBench, Stevo)
}
"""By their names on the command line."""

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkRun",
    "Given",
    "LeaveAndReturn",
    "MemoBench",
    "Mind",
    "PhyGenBench",
    "PixelSettings",
    "RolloutMaker",
    "Stevo",
    "Task",
    "VBench",
    "VideoMaker",
    "VideoRow",
    "WithAttached",
    "make_method",
    "pixel_scores",
    "read_conditions",
    "return_scores",
    "tables",
]
