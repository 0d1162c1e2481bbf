"""What every training script here shares: atomic checkpoints, a JSONL log, the cost shown while it runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None before the first; only tensors and plain values are read."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


class RunLog:
    """Progress bar and ``log.jsonl`` of a run of ``total`` steps that begins, or resumes, at ``start``.

    A resumed run first drops the rows written after its checkpoint, so that each step is logged once.
    """

    def __init__(self, folder: Path, name: str, start: int, total: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < start]
        path.write_text("".join(line + "\n" for line in kept))
        self._before = json.loads(kept[-1])["seconds"] if kept else 0.0
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
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if isinstance(v, float) and k != "seconds"})

    def close(self) -> None:
        """Close the bar and the file."""
        self._bar.close()
        self._file.close()
