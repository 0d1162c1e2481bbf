"""Prompts from a list or a CSV file, and those of published benchmarks with the file names of their videos.

`memkit.evaluation.benchmarks` generates the videos, and has the benchmarks that need more than prompts.
"""

from memkit.prompts.phygenbench import PhyGenBenchPrompt, plan_phygenbench, read_phygenbench
from memkit.prompts.plan import PlannedVideo
from memkit.prompts.prompt_list import Prompt, read_prompts, usable_prompts
from memkit.prompts.vbench import plan_vbench, read_augmented, read_vbench

__all__ = [
    "PhyGenBenchPrompt",
    "PlannedVideo",
    "Prompt",
    "plan_phygenbench",
    "plan_vbench",
    "read_augmented",
    "read_phygenbench",
    "read_prompts",
    "read_vbench",
    "usable_prompts",
]
