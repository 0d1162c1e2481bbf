"""Memory from features kept per clip (`memkit.banks.FeatureBank`), against reading latents and encoding them.

    python -m benchmarks.features --out out/features.json

Clips of 81 frames of 480×832 (latents [16, 21, 60, 104] in bf16) of random values, in a bank on disk; random weights.
The two ways take turns; a figure is the median ratio over rounds with its bootstrap interval. Bytes are those of the
whole folders, manifests included.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.common import report
from memkit.banks import FeatureBank, MemoryBank
from memkit.encoders import DitMemConfig, DitMemEncoder, FrequencyEncoder, FrequencyEncoderConfig, MemoryEncoder
from memkit.metrics import bootstrap

ENCODERS: dict[str, Callable[[], MemoryEncoder]] = {
    "DiT-Mem's layout (2 tokens per clip)": lambda: DitMemEncoder(DitMemConfig()),
    "FrequencyEncoder (252 tokens per clip)": lambda: FrequencyEncoder(FrequencyEncoderConfig.wan_1_3b()),
}


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    clips: int = 5
    """Clips per call."""
    frames: int = 21
    """Latent frames of a clip."""
    height: int = 60
    """Latent rows."""
    width: int = 104
    """Latent columns."""
    bf16: bool = False
    """Whether the encoder has weights in bf16, and so the features."""
    rounds: int = 5
    threads: int = 2
    out: Path = Path("out/features.json")


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Times of both ways per round, and bytes of the clips and of their features."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    encoder = ENCODERS[name]().eval().requires_grad_(False)
    encoder = encoder.bfloat16() if settings.bf16 else encoder
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        bank = MemoryBank.create(Path(folder) / "bank")
        shape = (16, settings.frames, settings.height, settings.width)
        for n in range(settings.clips):
            bank.add(f"{n}", torch.randn(shape).bfloat16(), f"clip {n}")
        latents = size_of(bank.path)
        features = FeatureBank(bank, encoder, Path(folder) / "features")
        features.fill()
        ways = {"encoded": lambda: encoder(bank.latents(bank.ids)), "features": lambda: features([bank.ids])}
        difference = (ways["encoded"]().tokens - ways["features"]().tokens).abs().max().item()
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(settings.rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                times[way].append(time.perf_counter() - start)
        return {
            "seconds": {way: round(float(np.median(values)), 6) for way, values in times.items()},
            "encoded / features": ratio(times["encoded"], times["features"]),
            "bytes of features / of latents": size_of(features.path) / latents,
            "largest difference of the tokens": difference,
        }


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """Median of the ratios of rounds, with its 95 % interval."""
    return [float(value) for value in bootstrap(lambda x: float(np.median(x)), np.array(slow) / np.array(fast))]


def rows(settings: Settings) -> list[dict[str, Any]]:
    """Rows of the table of all benchmarks: claim, ratio, interval, limit, which here is the target."""
    table = []
    for name in ENCODERS:
        found = measure(name, settings)
        value, low, high = found["encoded / features"]
        size = found["bytes of features / of latents"]
        table.append({"claim": f"{name}: latents read and encoded / features read, time", "ratio": value, "low": low,
                      "high": high, "limit": "≥ 50"})  # fmt: skip
        table.append({"claim": f"{name}: bytes of features / of latents", "ratio": size, "low": size, "high": size,
                      "limit": "≤ 0.01"})  # fmt: skip
    return table


def main(settings: Settings) -> None:
    """Measure both encoders and print the figures."""
    report({name: measure(name, settings) for name in ENCODERS}, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
