"""Measures the performance table and writes its page.

    python -m benchmarks.performance                      # all subjects
    python -m benchmarks.performance --only kv_cache      # single ones; the others keep their rows

On a CPU it uses one thread and counts its CPU seconds (about 10 minutes in all). Where there is a CUDA device, the same
subjects are then measured on it.
"""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import tyro

from benchmarks.performance.page import CPU_ONLY, TITLES, page_text
from benchmarks.performance.rows import Bench
from memkit.files.atomic import write_text
from memkit.files.json_files import read_json, write_json

COMMANDS = ("features", "bank_build")
"""Subjects that are commands of their own, too."""


@dataclass(frozen=True)
class Command:
    """The command line."""

    only: list[str] = field(default_factory=list)
    """Subjects to measure; by default all."""
    device: str = "auto"
    """"cpu", "cuda", or "auto" for the CPU and, where there is one, a CUDA device."""
    rounds: int = 9
    """Number of times that each variant is run."""
    out: Path = Path("docs")
    """Folder of performance.json and of the page."""


def main(command: Command) -> None:
    """Measure, and write the page."""
    if unknown := set(command.only) - set(TITLES):
        raise SystemExit(f"There is no subject {min(unknown)!r}; choose of {', '.join(TITLES)}.")
    devices = (
        ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if command.device == "auto" else [command.device]
    )
    file = command.out / "performance.json"
    measured: dict[str, Any] = read_json(file, "Delete it and measure again.") if file.exists() else {}
    for device in devices:
        bench = Bench(device, command.rounds)
        found = measured.setdefault(device, {"subjects": {}})
        found["machine"] = machine(device)
        for name in command.only or TITLES:
            if device == "cuda" and name in CPU_ONLY:
                continue
            package = "benchmarks" if name in COMMANDS else "benchmarks.performance"
            rows = importlib.import_module(f"{package}.{name}").rows(bench)
            found["subjects"][name] = [row.fields() for row in rows]
            for row in rows:
                target = "" if row.target is None else f" (target {'≥' if row.at_least else '≤'} {row.target:g})"
                print(f"{device}: {row.claim}: {row.value:.3g} [{row.low:.3g}, {row.high:.3g}]{target}", flush=True)
            command.out.mkdir(parents=True, exist_ok=True)
            write_json(file, measured)
    page = command.out / "performance.md"
    write_text(page, page_text(measured))
    print(f"The page is {page}.")


def machine(device: str) -> str:
    """What the figures of a device were measured on."""
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        return f"{found.name}, {found.total_memory / 1e9:.0f} GB, torch {torch.__version__}, bf16"
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    return f"{platform.machine()}, one of {cores} cores, torch {torch.__version__}, fp32"


if __name__ == "__main__":
    main(tyro.cli(Command, description=__doc__))
