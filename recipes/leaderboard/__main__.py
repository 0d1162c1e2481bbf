"""Run every mechanism on every probe, and write the table, the curves and the verdicts on the papers' claims.

    python -m recipes.leaderboard --jobs 2
    python -m recipes.leaderboard --probes recall --mechanisms window fov --seeds 4 5 --out out/mine
    python -m recipes.leaderboard --steps 10 --pretrain-steps 10 --samples 32 --out out/smoke     # does it run?

Rows go to OUT/leaderboard.json as they are measured; a command that was stopped continues where it was. In the end, and
with ``--runs 0`` at once, the pages OUT/leaderboard.md and OUT/evidence.md and the plots are written from all rows of
the file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import tyro

from memkit.evaluation import parallel_map
from memkit.probes import MECHANISMS, PROBES, ProbeSettings
from memkit.probes.run import DEFAULT_FOLDER
from memkit.training import run_command
from recipes.leaderboard.cells import VARIANTS
from recipes.leaderboard.evidence import write_evidence
from recipes.leaderboard.page import write_page
from recipes.leaderboard.runs import Rows, Run, planned


@dataclass(frozen=True)
class Leaderboard:
    """The command line."""

    probes: tuple[str, ...] = tuple(PROBES)
    """Names of the probes."""
    mechanisms: tuple[str, ...] = (*MECHANISMS, *VARIANTS)
    """Names of the mechanisms; those of `VARIANTS`, the last ones, are needed for claims alone."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One run per seed; verdicts need three."""
    out: Path = Path("docs")
    """Folder of leaderboard.json, and of the page."""
    bases: Path = DEFAULT_FOLDER
    """Folder of the pretrained models, one per probe."""
    jobs: int = 1
    """Number of runs at a time, each in a process with one thread."""
    runs: int | None = None
    """Stop after so many runs; by default, when all have a row."""
    device: str = "cpu"
    """Where models run, such as "cuda"."""
    settings: tyro.conf.OmitArgPrefixes[ProbeSettings] = field(default_factory=ProbeSettings)


def main(config: Leaderboard) -> None:
    """Measure what is missing, and write the page."""
    runs = planned(config.probes, config.mechanisms, config.seeds, config.settings)
    rows = Rows(config.out / "leaderboard.json", runs)
    missing = rows.missing(runs)
    print(f"{len(runs) - len(missing)} of {len(runs)} runs have a row in {rows.file}.", file=sys.stderr)
    torch.set_num_threads(1)
    parallel_map(partial(_measure, rows, config.bases, config.device), missing[: config.runs], config.jobs)
    found = rows.read()
    print(f"Results are in {write_page(found, config.out)} and {write_evidence(found, config.out)}.")


def _measure(rows: Rows, bases: Path, device: str, run: Run) -> None:
    row = run.result(bases, device)
    rows.add(row)
    print(
        f"{row.probe}, {row.mechanism}, seed {row.seed}: {row.accuracy:.2f} (chance {row.chance:.2f}, without the past "
        f"{row.control_accuracy:.2f}, that of another {row.wrong_accuracy:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    run_command(lambda: main(tyro.cli(Leaderboard, description=__doc__)))
