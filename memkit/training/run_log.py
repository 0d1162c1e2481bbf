"""What a run tells of itself: its losses, a log that survives resumption, its cost before and during."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from memkit.display import counted, size_of
from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write, writing
from memkit.files.json_files import append_row, line_of, read_log
from memkit.files.non_finite import to_json

LOG = "log.jsonl"

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


def read_run_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of the ``log.jsonl`` that a `RunLog` wrote into a folder, without a last line that was cut short.

    Raises `FileError` where there is none, or a line is damaged or no row of a log.
    """
    file = folder / LOG
    remedy = f"remove that line, or move {LOG} away: training resumes without it"
    rows = read_log(file, remedy, finite=False)  # once, NaN was written as NaN
    for number, row in enumerate(rows, 1):
        if type(row.get("step")) is not int or type(row.get("seconds")) not in (int, float):
            raise FileError(f"Line {number} of {file} is no row of a log, with step and seconds; {remedy}.")
    return rows


class RunLog:
    """Progress bar and ``log.jsonl`` of a run of ``total`` steps that begins, or resumes, at ``start``.

    A resumed run first drops the rows written after its checkpoint, so that each step is logged once. After a few steps
    it prints how long the rest will take. With an ``accelerator`` only the main process logs, and its tracker gets
    every row too. In the file, NaN is null and infinity "inf".

    Raises:
        InputError: there are no steps to make.
        FileError: the log cannot be written, or a line of it other than the last is damaged.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int, accelerator: Accelerator | None = None) -> None:
        self._main = accelerator is None or accelerator.is_main_process
        self._accelerator, self._name, self._steps = accelerator, name, 0
        self._left = total - start
        self._clock = time.monotonic()
        if total < 1:
            raise InputError(f"{name}: there is nothing to train in {total} steps; give 1 or more.")
        if not self._main:
            return
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / LOG
        rows = read_run_log(folder) if self._file.exists() else []
        if self._file.exists() and self._file.read_bytes().rpartition(b"\n")[2]:
            tqdm.write(f"{self._file}: the last line was cut short and is dropped.")
        kept = [row for row in rows if row["step"] < start]
        if start and not kept:
            tqdm.write(f"{self._file} has no rows of the steps before {start}.")
        if (lost := _missing_steps([row["step"] for row in kept], start)) is not None:
            tqdm.write(f"{self._file} has lost its rows of the steps {lost.start} to {lost.stop - 1}.")
        with atomic_write(self._file) as partial:
            partial.write_text("".join(line_of(to_json(row)) for row in kept), encoding="utf-8")
        self._before = kept[-1]["seconds"] if kept else 0.0
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
        append_row(self._file, to_json(row))
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
        """Close the bar."""
        if self._main:
            self._bar.close()


def _missing_steps(steps: Sequence[int], start: int) -> range | None:
    """The steps before ``start`` whose rows must have been there, by the largest distance of the rows that are."""
    if len(steps) < 2:
        return None
    usual = max(after - before for before, after in pairwise(steps))
    return range(steps[-1] + 1, start) if start - steps[-1] > usual else None


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
        print(f"{name}: {phase.name}: {counted(phase.steps, 'step')} of {phase.seconds:.2f} s, about {total}")
    whole = duration(sum(phase.steps * phase.seconds for phase in phases))
    check_disk(f"{name}: about {whole} in all", folder, bytes_needed)


def check_disk(name: str, folder: Path, bytes_needed: int) -> None:
    """Print what ``name`` takes on the disk of ``folder``; `InputError`, before anything is spent, if it has less."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    print(f"{name}; {size_of(bytes_needed)} on disk of {size_of(free)} free", flush=True)
    if bytes_needed > free:
        raise InputError(f"{folder} has {size_of(free)} free and {size_of(bytes_needed)} are needed; make room.")


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
