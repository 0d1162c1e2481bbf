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

    def source(self, model: str, rendered: int) -> tuple[Path, Path] | None:
        """Folder and captions, or None if a world is to be ``rendered``, in so many clips, for ``model``.

        Raises `InputError` for one without the other, for no clips at all, and for a model from a hub, which is too
        large for the worlds.
        """
        if self.videos is not None and self.captions is not None:
            return self.videos, self.captions
        if self.videos is not None or self.captions is not None:
            raise InputError("--videos and --captions go together.")
        if model != "tiny" and not Path(model).is_dir():
            raise InputError(
                f"The rendered worlds are too small for {model}; give your videos: --videos DIR --captions CSV."
            )
        if not rendered:
            raise InputError("There is nothing to render: all sets have 0 clips; give one of them 1 or more.")
        return None

    def report(self, bank: Path, count: int, broken: Sequence[BadItem], bad: Mapping[str, str] | None) -> int:
        """Print which items are bad: rows that are ``broken``, and of ``count`` others those that `fill_bank` found.

        Returns the exit code, 1 where some are bad unless they may be. In all processes but one, ``bad`` is None.

        Raises:
            InputError: there are no items, or none of them could be used.
        """
        if bad is None:
            return 0
        told = [(f"{self.captions}:{item.line}: {item.name}", item.reason) for item in broken] + [*bad.items()]
        for name, reason in told:
            print(f"{name}: {' '.join(reason.split())}", file=sys.stderr)
        print(f"{bank}: {count + len(broken)} listed, {len(told)} bad")
        if len(bad) == count:
            why = f"none of {len(told)} items could be used, the first because: {told[0][1]}" if told else ""
            raise InputError(f"Nothing was added to {bank}: {why or f'{self.captions} lists no videos; add some.'}")
        return 1 if told and not self.skip_bad else 0
