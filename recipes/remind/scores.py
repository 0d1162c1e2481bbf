"""What a clip that was made is held against: its twin, and the world as it was when it was last seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from memkit.metrics import evolution_score, hidden_state_error, mean_psnr, measure_state, psnr, state_evolution
from memkit.metrics.states import PERIODS, frame_shares
from memkit.worlds import Event, render
from memkit.worlds.event import camera, times
from recipes.remind.clips import WorldClip

Frames = UInt8[Tensor, "frames height width 3"]


@dataclass(frozen=True)
class Row:
    """One clip. What could not be measured is NaN."""

    id: str
    condition: str
    """What was made, and by whom: "recovery", "recovery / base", "plain", …"""
    by: str
    """What interrupts the clip."""
    process: str
    """What goes on in it; "video" of a file."""
    psnr: float
    """dB, against the twin."""
    evolution: float
    """Of pixels that show, or showed, what moves: 1 as the twin, 0 as far off as a world that stopped."""
    state_evolution: float
    """The same of the state that the process has, over the frames in which it was found."""
    state_error: float
    """Of the state, in shares of the frame's width."""
    found: float
    """Share of the frames in which it was."""
    attends_before: float = math.nan
    """Share of the attention of the frames made that goes to frames before the interruption."""
    attends_newest: float = math.nan
    """To the newest chunk."""
    attends_mirror: float = math.nan
    """To the frames that had the same view, of a camera that looked away and came back."""


class Truth(NamedTuple):
    """The twin of a clip, frame 0 first, and what went on in it, where that is known."""

    frames: Frames
    process: Event | None
    fps: float


def truth_of(clip: WorldClip) -> Truth:
    """Rendered."""
    config = clip.config
    return Truth(clip.drawn.twin(config.frames, config.fps, config.height), clip.drawn.event, config.fps)


class Scores(NamedTuple):
    """See `Row`."""

    psnr: float
    evolution: float
    state_evolution: float
    state_error: float
    found: float


def score(made: Frames, truth: Truth, part: slice, last_seen: int) -> Scores:
    """Of the frames ``part``, which are ``made``; ``last_seen`` is the frame that a frozen world would still show."""
    twin, frozen = truth.frames[part], truth.frames[last_seen]
    quality = mean_psnr(psnr(made, twin))
    quality = quality if math.isfinite(quality) else math.nan  # of equal frames
    if truth.process is None:
        return Scores(quality, evolution_score(made, twin, frozen), math.nan, math.nan, 0.0)
    event, seconds = truth.process, times(len(truth.frames), truth.fps)
    mask = moving(event, seconds[part], made.shape[1]) | moving(
        event, seconds[last_seen : last_seen + 1], made.shape[1]
    )
    state = _vectors(measure_state(made, event), event)
    true, before = (_vectors(event.state(t), event) for t in (seconds[part], seconds[last_seen : last_seen + 1]))
    still = state_evolution(state, true, before[0])
    error = hidden_state_error(state, true, 1.0)
    return Scores(quality, evolution_score(made, twin, frozen, mask), still.value, error.value, error.found)


def moving(event: Event, seconds: Float[Tensor, " frames"], size: int) -> Bool[Tensor, "frames {size} {size}"]:
    """The pixels of what moves or changes in an event."""
    still = 1 + len(event.fixtures())  # the floor is first
    return render(event.scene(seconds), camera(), size, size, antialias=False).ids >= still


def _vectors(state: dict[str, Tensor], event: Event) -> Float[Tensor, "frames variables"]:
    """A state in shares of the frame's width; of an angle its cosine and sine, which know no turns."""
    values = torch.stack([state[name] for name in event.units], dim=-1).double()
    if period := PERIODS.get(event.shows):
        turned = values * (2 * math.pi / period)
        values = torch.cat([turned.cos(), turned.sin()], dim=-1) * (period / (2 * math.pi))
    return values * frame_shares(event)
