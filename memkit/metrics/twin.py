"""`compare_with_twin`: what a change to a model, such as a filter, does to a clip of the same prompt and noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.encoders.filters import HighPass
from memkit.metrics.fit import FOUND, state_distance
from memkit.metrics.laws import body_found, measure_law
from memkit.metrics.states import frame_shares, measure_state
from memkit.metrics.track import track_body
from memkit.worlds.event import Event

FINE = HighPass(math.inf, 0.25, "ideal")  # cycles per pixel
Frames = UInt8[Tensor, "frames height width 3"]


class TwinComparison(NamedTuple):
    """How a clip differs from its twin, and what it is like by itself. What could not be measured is NaN."""

    found: bool
    """The body is seen, in the colour that the prompt names."""
    law_residual: float
    """See `LawMeasure`; in shares of the frame's width, as the next."""
    path_distance: float
    """Between the bodies of both clips, mean over the frames that show them."""
    colour_distance: float
    """Likewise, of colours in [0, 1]³."""
    squared_error: float
    """Mean over pixels in [0, 1]."""
    fine: float
    """Share of the energy of the frames, less their means, above 0.25 cycles per pixel."""
    motion: float
    """Mean absolute difference between successive frames, of pixels in [0, 1]."""


def compare_with_twin(video: Frames, twin: Frames, event: Event, fps: float) -> TwinComparison:
    """Compare a clip of an ``event`` of the worlds with its twin.

    Distances are NaN unless most frames show the body in both clips.
    """
    pixels, before = video.double() / 255, twin.double() / 255
    grey = pixels.mean(-1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    (path, colour), (path_before, colour_before) = _seen(video, event), _seen(twin, event)
    return TwinComparison(
        found=body_found(video, event),
        law_residual=measure_law(video, event, fps).law_residual * frame_shares(event),
        path_distance=_mean(state_distance(path, path_before, event)) * frame_shares(event),
        colour_distance=_mean((colour - colour_before).norm(dim=-1)),
        squared_error=(pixels - before).square().mean().item(),
        fine=(FINE(grey).square().sum() / grey.square().sum()).item(),
        motion=pixels.diff(dim=0).abs().mean().item(),
    )


def scene_distance(video: Frames, other: Frames) -> float:
    """Mean distance of what stands still in two clips, each pixel's median over time, in shares of the colour range."""
    still, other_still = (each.float().median(dim=0).values for each in (video, other))
    return (still - other_still).abs().mean().item() / 255


def _seen(video: Frames, event: Event) -> tuple[Tensor, Tensor]:
    """The body's state [variables, frames] and colour [frames, 3]."""
    state = measure_state(video, event)
    return torch.stack([state[name] for name in event.units]), track_body(video, event).colour


def _mean(values: Tensor) -> float:
    """Mean of the values that are not NaN; NaN where too few are not."""
    return values.nanmean().item() if (~values.isnan()).double().mean() >= FOUND else math.nan
