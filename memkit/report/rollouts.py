"""A self-contained HTML page of rollouts side by side, with the attention of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.errors import InputError
from memkit.report.html import STRIP_FRAMES, render_page
from memkit.report.sheet import evenly
from memkit.video.player import SMALL


@dataclass(frozen=True)
class GeneratedVideo:
    """A rollout with its method's name; ``note`` gives its scores."""

    name: str
    note: str
    frames: UInt8[Tensor, "time height width 3"]


@dataclass(frozen=True)
class ContextAttention:
    """The attention of the queries of a method: the share, in [0, 1], on each context frame."""

    title: str
    note: str
    times: Sequence[int]
    frames: UInt8[Tensor, "k height width 3"]
    shares: Float[Tensor, " k"]
    even: float
    """The share of each frame if all tokens got equal attention."""

    @property
    def scale(self) -> float:
        """The share at which a bar is full."""
        return max(float(self.shares.max()), self.even, 1e-6)


@dataclass(frozen=True)
class RolloutSection:
    """One camera path: videos of the truth and of each method, of equal length. ``frame_marks`` label the frames."""

    title: str
    note: str
    rollouts: Sequence[GeneratedVideo]
    strip_title: str
    frame_marks: Sequence[str]
    attention: Sequence[ContextAttention]

    @property
    def marks(self) -> list[str]:
        """The marks of the frames in a strip."""
        return [self.frame_marks[i] for i in strip_columns(len(self.frame_marks))]


def strip_columns(frames: int) -> Sequence[int]:
    """Indices of the frames of a video that its strip shows."""
    return evenly(frames, STRIP_FRAMES)


def render_rollouts(
    title: str,
    intro: str,
    caveat: str,
    sections: Sequence[RolloutSection],
    settings: Mapping[str, str],
    fps: float,
) -> str:
    """The self-contained page, in which all texts are escaped.

    Raises `InputError` without a section, and if the videos of a section differ in length or a mark is missing.
    """
    if not sections:
        raise InputError("There is nothing to report; give at least one section.")
    for section in sections:
        lengths = {len(video.frames) for video in section.rollouts} | {len(section.frame_marks)}
        if len(lengths) != 1 or any(not len(w.times) == len(w.frames) == len(w.shares) for w in section.attention):
            raise InputError(f"{section.title}: give videos of equal length, and one mark, time or share per frame.")
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
