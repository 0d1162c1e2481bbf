"""Flags of a prepare command for your own videos in place of a rendered world."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memkit.banks.captions import BadItem
from memkit.errors import InputError


@dataclass(frozen=True)
class OwnVideos:
    """Flags of a prepare command."""

    videos: Path | None = None
    """Folder of your own videos, in place of rendered ones."""
    captions: Path | None = None
    """Their captions: CSV with the columns video and caption, optionally id and source."""
    skip_bad: bool = False
    """Exit with 0 although some videos could not be used; they are listed in any case."""

    def source(self, model: str) -> tuple[Path, Path] | None:
        """Folder and captions, or None if a world is to be rendered for ``model``.

        Raises `InputError` for one without the other, and for a model from a hub, which is too large for the worlds.
        """
        if self.videos is not None and self.captions is not None:
            return self.videos, self.captions
        if self.videos is not None or self.captions is not None:
            raise InputError("--videos and --captions go together.")
        if model != "tiny" and not Path(model).is_dir():
            raise InputError(
                f"The rendered worlds are too small for {model}; give your videos: --videos DIR --captions CSV."
            )
        return None

    def report(self, bank: Path, count: int, broken: Sequence[BadItem], bad: Mapping[str, str] | None) -> int:
        """Print which of ``count`` videos are bad (``broken`` rows, and what `fill_bank` found); the exit code."""
        if bad is None:
            return 0
        bad = {item.name: item.reason for item in broken} | dict(bad)
        for name, reason in bad.items():
            print(f"{name}: {reason}", file=sys.stderr)
        print(f"{bank}: {count} videos listed, {len(bad)} bad")
        return 1 if bad and not self.skip_bad else 0
