"""The page that shows what a memory of the past did: rollouts side by side, and what queries attended to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.errors import InputError
from memkit.report.html import SMALL, STRIP_FRAMES, render_page
from memkit.report.sheet import evenly


@dataclass(frozen=True)
class MadeVideo:
    """A rollout by its method's name; ``note`` says how good it was."""

    name: str
    note: str
    frames: UInt8[Tensor, "time height width 3"]


@dataclass(frozen=True)
class Watched:
    """What the queries of a method attended to: their share, in [0, 1], on each frame of the context."""

    title: str
    note: str
    times: Sequence[int]
    frames: UInt8[Tensor, "k height width 3"]
    shares: Float[Tensor, " k"]
    even: float
    """What each frame would have if every token got the same."""

    @property
    def scale(self) -> float:
        """The share that a full bar stands for."""
        return max(float(self.shares.max()), self.even, 1e-6)


@dataclass(frozen=True)
class RolloutSection:
    """One path, the truth and then each method; all videos are equally long. ``marks`` say what each frame sees."""

    title: str
    note: str
    rollouts: Sequence[MadeVideo]
    strip_title: str
    frame_marks: Sequence[str]
    watched: Sequence[Watched]

    @property
    def marks(self) -> list[str]:
        """Of the frames that a strip has."""
        return [self.frame_marks[i] for i in strip_columns(len(self.frame_marks))]


def strip_columns(frames: int) -> Sequence[int]:
    """The frames of a video that its strip shows."""
    return evenly(frames, STRIP_FRAMES)


def render_rollouts(
    title: str,
    intro: str,
    caveat: str,
    sections: Sequence[RolloutSection],
    settings: Mapping[str, str],
    fps: float,
) -> str:
    """The page, with everything inside; it loads nothing from anywhere, and shows all texts as they are.

    Raises `InputError` without a section, and where the videos of one are not equally long or a mark is missing.
    """
    if not sections:
        raise InputError("There is nothing to report; give at least one section.")
    for section in sections:
        lengths = {len(made.frames) for made in section.rollouts} | {len(section.frame_marks)}
        if len(lengths) != 1 or any(not len(w.times) == len(w.frames) == len(w.shares) for w in section.watched):
            raise InputError(f"{section.title}: give videos of one length, and to each frame its mark, time or share.")
    return render_page(
        "rollouts.html.j2",
        fps,
        title=title,
        intro=intro,
        caveat=caveat,
        sections=sections,
        settings=settings,
        pixelated=max(sections[0].rollouts[0].frames.shape[1:3]) < SMALL,
    )
