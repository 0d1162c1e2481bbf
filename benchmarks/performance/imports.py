"""Seconds until the main names are usable, beyond what torch and diffusers take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from benchmarks.performance.rows import Bench, Row
from memkit.metrics import bootstrap

ENGINES = "import torch; from diffusers import WanPipeline"
NAMES = "from memkit import SelfAttentionConcat, KVCache, MemoryBank"


def rows(bench: Bench) -> list[Row]:
    """Time new processes with and without memkit."""
    alone, more = [], []
    for _ in range(max(bench.rounds // 2, 3)):
        alone.append(_seconds(ENGINES))
        more.append(_seconds(f"{ENGINES}; {NAMES}"))
    found = bootstrap(lambda a, b: float(np.median(b) - np.median(a)), np.array(alone), np.array(more))
    claim = "First use of SelfAttentionConcat, KVCache and MemoryBank, beyond torch and diffusers' WanPipeline"
    return [Row(claim, *found, target=0.3, unit="s", details={"torch and diffusers": {"s": float(np.median(alone))}})]


def _seconds(code: str) -> float:
    """CPU seconds of a Python process that runs ``code``."""
    program = f"import os\n{code}\nprint(sum(os.times()[:2]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
