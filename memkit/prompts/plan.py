"""`PlannedVideo`: a video that a benchmark asks for."""

from __future__ import annotations

from typing import NamedTuple


class PlannedVideo(NamedTuple):
    """A video that a benchmark asks for.

    Attributes:
        key: name of the video in the plan, which no other has.
        file: name of the file that the benchmark's scorer looks for.
        prompt: what to generate.
        seed: of the noise.
        categories: what the benchmark sorts the prompt under.
    """

    key: str
    file: str
    prompt: str
    seed: int
    categories: tuple[str, ...]
