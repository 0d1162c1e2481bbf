"""What every training script here shares: atomic checkpoints, a JSONL log, the cost told before and shown during."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from memkit.errors import InputError
from memkit.files import atomic_write

LEAST_LR = 0.05  # where the cosine ends


def identity(config: Any, may_change: Collection[str], **more: Any) -> dict[str, Any]:
    """What must not change between a run and its resumption: a dataclass' fields but those named, and ``more``."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in may_change}
    return json.loads(json.dumps({**settings, **more}, default=str))


def fingerprint(*modules: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, with their names: the same bits, the same string."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(state: dict[str, Any], path: Path, about: dict[str, Any]) -> None:
    """Write a checkpoint of a run so that a crash leaves the old one or the new one."""
    with atomic_write(path) as partial:
        torch.save({**state, "about": json.dumps(about)}, partial)


def load_checkpoint(path: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint, or None before the first; only tensors and plain values are read.

    Raises `InputError` if it is of a run with another identity.
    """
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    before = json.loads(state.pop("about"))
    names = [name for name in {**before, **about} if before.get(name) != about.get(name)]
    if names:
        changed = ", ".join(f"{name} ({before.get(name)} before, {about.get(name)} now)" for name in names)
        raise InputError(f"{path} is of a run with other settings: {changed}; set them back, or give another --out.")
    return state


def lr_multiplier(step: int, steps: int, warmup: int, schedule: Literal["constant", "cosine"]) -> float:
    """Of the learning rate, at one of ``steps``: linear warm-up, then constant or a cosine to `LEAST_LR`."""
    share = min(1.0, (step + 1) / max(1, warmup))
    if schedule == "cosine":
        done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
        share *= LEAST_LR + (1 - LEAST_LR) * 0.5 * (1 + math.cos(math.pi * done))
    return share


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def by_noise_level(loss: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean loss in each third of σ; a third without samples is left out."""
    third = (sigma * 3).long().clamp(max=2).to(loss.device)
    names = ("loss_low", "loss_mid", "loss_high")
    return {name: loss[third == i].mean().item() for i, name in enumerate(names) if (third == i).any()}


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
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    for phase in phases:
        total = duration(phase.steps * phase.seconds)
        print(f"{name}: {phase.name}: {phase.steps} steps of {phase.seconds:.2f} s, about {total}")
    whole = duration(sum(phase.steps * phase.seconds for phase in phases))
    print(f"{name}: about {whole} in all; {bytes_needed / 1e6:.0f} MB on disk of {free / 1e9:.0f} GB free", flush=True)
    if bytes_needed > free:
        raise InputError(f"{folder} has {free / 1e6:.0f} MB free and {name} needs {bytes_needed / 1e6:.0f}; make room.")


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class RunLog:
    """Progress bar and ``log.jsonl`` of a run of ``total`` steps that begins, or resumes, at ``start``.

    A resumed run first drops the rows written after its checkpoint, so that each step is logged once. ``also`` gets
    every row and its step, for a tracker.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        start: int,
        total: int,
        also: Callable[[dict[str, Any], int], None] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < start]
        with atomic_write(path) as partial:
            partial.write_text("".join(line + "\n" for line in kept))
        self._before = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._also = also
        self._file = path.open("a")
        self._bar = tqdm(total=total, initial=start, desc=name)
        self._clock = time.monotonic()

    def step(self, row: dict[str, Any] | None = None) -> None:
        """Count one step; ``row`` is logged with the seconds spent so far, over all resumes."""
        self._bar.update()
        if row is None:
            return
        row["seconds"] = round(self._before + time.monotonic() - self._clock, 1)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._also is not None:
            self._also({name: value for name, value in row.items() if name != "step"}, row["step"])
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if isinstance(v, float) and k != "seconds"})

    def close(self) -> None:
        """Close the bar and the file."""
        self._bar.close()
        self._file.close()
