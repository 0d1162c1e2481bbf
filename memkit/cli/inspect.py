"""``memkit inspect``: what a file or a folder is, and the line of Python that loads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Inspect:
    """Say what a file of weights or a folder is, and how to load it. Only headers are read, so that it takes a moment.

    Known are Wan checkpoints, whatever wrote them, those of the DiT-Mem encoder, diffusers folders, and what memkit
    saves: encoders, query layers, banks, caches, streams. The exit code is 0 if memkit can load it and 1 if it cannot.
    """

    file: tyro.conf.Positional[Path]
    """A file, the index of a sharded checkpoint, or a folder."""
    weights: str | None = None
    """Which weights to inspect of a checkpoint that holds several, such as generator_ema."""

    def run(self) -> int:
        from memkit.backbones.checkpoints.report import inspect_checkpoint
        from memkit.cli.recognise import report_of_others

        report = report_of_others(self.file) or inspect_checkpoint(self.file, self.weights)
        print(f"{self.file}: {report.what}")
        for name, value in report.facts:
            print(f"  {name}: {value}")
        if report.load:
            print(f"  load it with: {report.load}")
            return 0
        print(f"  cannot be loaded: {report.problem}")
        return 1
