"""What a run tells of itself: its losses, a log that survives resumption, its cost before and during."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from memkit.errors import InputError
from memkit.files.atomic import atomic_write

TIMED_STEPS = range(2, 6)  # steps of a run whose mean time makes the estimate; the first one warms up


def by_noise_level(loss: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean loss in each third of σ; a third without samples is left out."""
    third = (sigma * 3).long().clamp(max=2).to(loss.device)
    names = ("loss_low", "loss_mid", "loss_high")
    return {name: loss[third == i].mean().item() for i, name in enumerate(names) if (third == i).any()}


def gathered_losses(accelerator: Accelerator, losses: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean loss, and that by noise level, of (losses, σ) of any shape, over all micro-batches and processes."""
    loss, sigma = (torch.cat([pair[i].detach().flatten().float() for pair in losses]) for i in (0, 1))
    loss, sigma = accelerator.gather((loss, sigma.to(loss)))
    return {"loss": loss.mean().item(), **by_noise_level(loss, sigma)}


class RunLog:
    """Progress bar and ``log.jsonl`` of a run of ``total`` steps that begins, or resumes, at ``start``.

    A resumed run first drops the rows written after its checkpoint, so that each step is logged once. After a few steps
    it prints how long the rest will take. With an ``accelerator`` only the main process logs, and its tracker gets
    every row too.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int, accelerator: Accelerator | None = None) -> None:
        self._main = accelerator is None or accelerator.is_main_process
        self._accelerator, self._name, self._steps = accelerator, name, 0
        self._left = total - start
        self._clock = time.monotonic()
        if not self._main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < start]
        with atomic_write(path) as partial:
            partial.write_text("".join(line + "\n" for line in kept))
        self._before = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._file = path.open("a")
        self._bar = tqdm(total=total, initial=start, desc=name)

    def step(self, row: dict[str, Any] | None = None) -> None:
        """Count one step; ``row`` is logged with the seconds spent so far, over all resumes."""
        if not self._main:
            return
        self._bar.update()
        self._estimate()
        if row is None:
            return
        row["seconds"] = round(self._before + time.monotonic() - self._clock, 1)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._accelerator is not None:  # which without a tracker does nothing
            self._accelerator.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if isinstance(v, float) and k != "seconds"})

    def _estimate(self) -> None:
        self._steps += 1
        if self._steps == TIMED_STEPS.start - 1:
            self._timed_from = time.monotonic()
        if self._steps == TIMED_STEPS.stop - 1 < self._left:
            seconds, left = (time.monotonic() - self._timed_from) / len(TIMED_STEPS), self._left - self._steps
            tqdm.write(f"{self._name}: {left} more steps of {seconds:.2f} s, about {duration(left * seconds)}")

    def close(self) -> None:
        """Close the bar and the file."""
        if self._main:
            self._bar.close()
            self._file.close()


@dataclass(frozen=True)
class Phase:
    """Steps still to be made, and the measured seconds of one."""

    name: str
    steps: int
    seconds: float


def timed(step: Callable[[], object]) -> float:
    """Seconds of the second of two calls; the first warms up. Random states are left as they were."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    with torch.random.fork_rng():
        step()
        wait()
        start = time.perf_counter()
        step()
        wait()
        return time.perf_counter() - start


def estimate_cost(name: str, phases: Sequence[Phase], bytes_needed: int, folder: Path) -> None:
    """Print what a run will take: steps, time from measured steps, disk.

    Raises `InputError` before anything is spent if the disk of ``folder`` has less than ``bytes_needed`` free.
    """
    for phase in phases:
        total = duration(phase.steps * phase.seconds)
        print(f"{name}: {phase.name}: {phase.steps} steps of {phase.seconds:.2f} s, about {total}")
    whole = duration(sum(phase.steps * phase.seconds for phase in phases))
    check_disk(f"{name}: about {whole} in all", folder, bytes_needed)


def check_disk(name: str, folder: Path, bytes_needed: int) -> None:
    """Print what ``name`` takes on the disk of ``folder``; `InputError`, before anything is spent, if it has less."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    print(f"{name}; {bytes_needed / 1e6:.0f} MB on disk of {free / 1e9:.0f} GB free", flush=True)
    if bytes_needed > free:
        raise InputError(f"{folder} has {free / 1e6:.0f} MB free and {bytes_needed / 1e6:.0f} are needed; make room.")


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
