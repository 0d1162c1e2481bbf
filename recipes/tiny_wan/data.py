"""Render the training clips of tiny-wan. A command that was stopped continues where it was.

    python -m recipes.tiny_wan.data --out runs/tiny-wan/worlds

See `memkit.worlds.clip_set` for the files that are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from memkit.training import run_command
from memkit.worlds.clip_set import ClipSetConfig, render_clip_set


@dataclass(frozen=True)
class DataConfig(ClipSetConfig):
    """The command line."""

    out: Path = Path("runs/tiny-wan/worlds")
    """Folder of the clips."""


if __name__ == "__main__":
    run_command(lambda: render_clip_set(tyro.cli(DataConfig)))
