"""What every neighbour has in common: a row of the table in docs/neighbours.md, and settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from memkit.checks import MOST_FRAMES, check_fields
from memkit.errors import InputError
from recipes.neighbours.video import Latents, Video


@dataclass(frozen=True)
class Neighbour:
    """A row of the table in docs/neighbours.md."""

    title: str
    paper: str
    """arXiv number, if we know it, and what our notes on it are from: [A]bstract, [P]aper, [C]ode, [S]econd hand."""
    visibility: str
    """Who sees whom."""
    timesteps: str
    """Which noise level each frame has."""
    positions: str
    """Where each frame or token is for the model."""
    frequencies: str
    """Which frequencies come from where."""
    trained: str
    """What the authors train, and what stands for it here; empty for a method without training."""
    readings: tuple[str, ...] = ()
    """What our notes on the paper do not say, or say by inference alone: a setting by name, or what stands for what."""


POSITIVE = ("chunk", "chunks", "first", "window", "clip", "block", "every", "tokens", "pooled", "kernel", "hidden")
"""Settings of which there must be at least one; other numbers are 0 or more."""


class Method(ABC):
    """The base of all neighbours, which are frozen dataclasses of their settings.

    Raises `InputError` for settings out of range or that do not fit each other.
    """

    about: ClassVar[Neighbour]

    def __post_init__(self) -> None:
        check_fields(self, **{name: (1, MOST_FRAMES) for name in POSITIVE if hasattr(self, name)})

    @abstractmethod
    def sample(self, video: Video) -> Latents:
        """The latents of the video, all frames. Raises `InputError` where the settings do not fit it."""


def at_most(name: str, value: int, most: int) -> None:
    """Raises `InputError` for a setting above ``most``."""
    if value > most:
        raise InputError(f"{name} is {value}; give at most {most} with the other settings.")
