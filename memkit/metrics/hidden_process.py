"""Scores of a process of the worlds that was hidden: pixels and state of the frames in which it is visible again."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.metrics.evolution import evolution_score, hidden_state_error, state_evolution
from memkit.metrics.quality import Frames, mean_psnr, psnr
from memkit.metrics.states import PERIODS, frame_shares, measure_state
from memkit.worlds.event import Event, camera
from memkit.worlds.render import render


class HiddenProcess(NamedTuple):
    """Scores of the frames after a process was hidden; NaN where they are undefined."""

    psnr: float
    """In dB, against the twin; NaN for equal frames."""
    evolution: float
    """`evolution_score` of the pixels that show, or showed, moving bodies: 1 for the twin, 0 for a stopped world."""
    state_evolution: float
    """`state_evolution` over the frames in which the state was found."""
    state_error: float
    """Mean distance of the state from the truth over the same frames, as a share of the frame's width."""
    found: float
    """Share of the frames in which the state was found, in [0, 1]."""


def measure_hidden_process(
    video: Frames,
    twin: Frames,
    frozen: Frames,
    event: Event | None,
    seconds: Float[Tensor, " frames"],
    last_seen: Float[Tensor, ""],
) -> HiddenProcess:
    """Scores of ``video``, the frames of an event at ``seconds``.

    ``twin`` are the same frames without an interruption; ``frozen`` [H, W, 3] is the frame at ``last_seen`` seconds,
    which a stopped world still shows. Without an event all pixels count, and there is no state.
    """
    quality = mean_psnr(psnr(video, twin))
    quality = quality if math.isfinite(quality) else math.nan
    if event is None:
        return HiddenProcess(quality, evolution_score(video, twin, frozen), math.nan, math.nan, 0.0)
    before = last_seen[None]
    mask = moving_pixels(event, seconds, video.shape[1]) | moving_pixels(event, before, video.shape[1])
    found = _in_frame_widths(measure_state(video, event), event)
    true, stopped = (_in_frame_widths(event.state(t), event) for t in (seconds, before))
    evolved, error = state_evolution(found, true, stopped[0]), hidden_state_error(found, true, 1.0)
    pixels = evolution_score(video, twin, frozen, mask)
    return HiddenProcess(quality, pixels, evolved.value, error.value, error.found)


def moving_pixels(event: Event, seconds: Float[Tensor, " frames"], size: int) -> Bool[Tensor, "frames {size} {size}"]:
    """The pixels that show what moves or changes in an event."""
    fixed = 1 + len(event.fixtures())  # the floor is first
    return render(event.scene(seconds), camera(), size, size, antialias=False).ids >= fixed


def _in_frame_widths(state: dict[str, Tensor], event: Event) -> Float[Tensor, "frames variables"]:
    """A state in shares of the frame's width; an angle as its cosine and sine, which whole turns leave as they are."""
    values = torch.stack([state[name] for name in event.units], dim=-1).double()
    if period := PERIODS.get(event.shows):
        turned = values * (2 * math.pi / period)
        values = torch.cat([turned.cos(), turned.sin()], dim=-1) * (period / (2 * math.pi))
    return values * frame_shares(event)
