"""Shared parts of the benchmarks: timing that is robust to other load, and results that are printed and saved."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.cameras import Cameras


def best_of(run: Callable[[], object], rounds: int) -> float:
    """Fewest CPU seconds of ``rounds`` runs, after a warm-up."""
    run()
    best = math.inf
    for _ in range(rounds):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def looking(eye: Tensor, yaw: Tensor, fov_degrees: float = 50.0) -> Cameras:
    """Level cameras at ``eye`` [..., 3], or all at one position [3], turned by ``yaw`` [...] radians from +x."""
    ahead = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], dim=-1).to(eye)
    return Cameras.look_at(eye.expand_as(ahead), eye + ahead, fov_degrees)


def report(result: dict[str, Any], settings: Any, out: Path) -> None:
    """Print the figures with settings and machine, write them to ``out`` and say so."""
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    result = {**result, "settings": shown, "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps(result, indent=2))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {out}", file=sys.stderr)
