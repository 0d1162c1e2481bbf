"""Memory from features kept per clip (`memkit.banks.FeatureBank`), against reading latents and encoding them.

    python -m benchmarks.features --out out/features.json

Clips of 81 frames of 480×832 (latents [16, 21, 60, 104] in bf16) of random values, in a bank on disk; random weights.
The two ways take turns. Bytes are those of the whole folders, manifests included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.common import report
from benchmarks.performance.rows import Bench, Row, Times, Variant
from memkit.banks import FeatureBank, MemoryBank
from memkit.encoders import DitMemConfig, DitMemEncoder, FrequencyEncoder, FrequencyEncoderConfig, MemoryEncoder

ENCODERS: dict[str, Callable[[], MemoryEncoder]] = {
    "DiT-Mem's layout (2 tokens per clip)": lambda: DitMemEncoder(DitMemConfig()),
    "FrequencyEncoder (252 tokens per clip)": lambda: FrequencyEncoder(FrequencyEncoderConfig.wan_1_3b()),
}


LATENTS = (16, 21, 60, 104)


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats."""

    clips: int = 5
    """Clips per call."""
    rounds: int = 5
    device: str = "cpu"
    out: Path = Path("out/features.json")


def measure(name: str, bench: Bench, clips: int) -> tuple[Times, float]:
    """Times of both ways, and the bytes of the features per byte of the clips."""
    torch.manual_seed(0)
    encoder = ENCODERS[name]().eval().requires_grad_(False).to(bench.device, bench.dtype)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        bank = MemoryBank.create(Path(folder) / "bank")
        for n in range(clips):
            bank.add(f"{n}", torch.randn(LATENTS).bfloat16(), f"clip {n}")
        size = size_of(bank.path)
        features = FeatureBank(bank, encoder, Path(folder) / "features")
        features.fill()
        ways = {
            "read and encoded": Variant(lambda: encoder(bank.latents(bank.ids).to(bench.device))),
            "features": Variant(lambda: features([bank.ids])),
        }
        return bench.turns(ways, most=5), size_of(features.path) / size


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def rows(bench: Bench, clips: int = 5) -> list[Row]:
    """Rows of the performance table."""
    table = []
    for name in ENCODERS:
        times, size = measure(name, bench, clips)
        ways = ("read and encoded", "features")
        table.append(times.row(f"{name}: latents read and encoded / features read", *ways, target=50, at_least=True))
        table.append(Row(f"{name}: bytes of the features / of the latents", size, size, size, 0.01))
    return table


def main(settings: Settings) -> None:
    """Measure both encoders and print the figures."""
    found = rows(Bench(settings.device, settings.rounds), settings.clips)
    result: dict[str, Any] = {row.claim: row.fields() for row in found}
    report(result, settings, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
