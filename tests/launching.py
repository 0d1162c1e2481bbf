"""Commands as processes of their own, and several of them launched together, on CPUs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAUNCH = (*("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
          *("--mixed_precision", "no", "--dynamo_backend", "no"))  # fmt: skip


def arguments(module: str, config: Any, default: Any) -> list[str]:
    """The command line of a recipe that gives ``config``, of whose preset "tiny" is ``default``."""
    words = ["-m", module, "--preset", "tiny"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            words += [f"--{field.name}", str(value)] if not isinstance(value, bool) else [f"--{field.name}"]
    return [word.replace("_", "-") if word.startswith("--") else word for word in words]


def popen(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = subprocess.PIPE
    words = (sys.executable, *words)
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True)


def finish(process: subprocess.Popen) -> str:
    """What it printed."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return printed
