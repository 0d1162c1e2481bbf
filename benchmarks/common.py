"""What the benchmarks share: a time that other work falls on least, and a result that is printed and kept."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.cameras import Cameras


def best_of(run: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the best of ``rounds``, after one that does not count."""
    run()
    best = math.inf
    for _ in range(rounds):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def looking(eye: Tensor, yaw: Tensor, fov_degrees: float = 50.0) -> Cameras:
    """Level cameras at ``eye`` [..., 3], or all at one place [3], turned by ``yaw`` [...] radians from +x."""
    ahead = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], dim=-1).to(eye)
    return Cameras.look_at(eye.expand_as(ahead), eye + ahead, fov_degrees)


def report(result: dict[str, Any], settings: Any, out: Path) -> None:
    """Print the figures with the settings and the machine, and write them to ``out``."""
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    result = {**result, "settings": told, "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps(result, indent=2))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
