"""A clip and its twin, made from the same noise without what is studied: what has changed in the pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.encoders import HighPass
from memkit.metrics import body_found, measure_law, measure_state, track_body
from memkit.metrics.fit import FOUND, state_distance
from memkit.metrics.states import frame_shares
from memkit.worlds import Event

FINE = HighPass(math.inf, 0.25, "ideal")  # cycles a pixel
Frames = UInt8[Tensor, "frames height width 3"]


@dataclass(frozen=True)
class Row:
    """One clip, and how far it is from its unfiltered twin. What could not be measured is NaN."""

    condition: str
    prompt: int
    changed: float
    """The dose, mean over the calls of the model."""
    found: bool
    """The body is seen, in the colour that the prompt names."""
    law_residual: float
    """See `memkit.metrics.LawMeasure`; in shares of the frame, as the next."""
    path_distance: float
    """Of the body, mean over the frames that show it in both clips."""
    colour_distance: float
    """Of the body, likewise, of colours in [0, 1]³."""
    squared_error: float
    """Mean over pixels in [0, 1]."""
    fine: float
    """Share of the energy of the frames, less their means, that is `FINE`."""
    motion: float
    """Mean absolute difference between successive frames, of pixels in [0, 1]."""


def measure(video: Frames, twin: Frames, law: Event, fps: float, **known: Any) -> Row:
    """One row; ``known`` are its condition, prompt and dose."""
    pixels, before = video.double() / 255, twin.double() / 255
    grey = pixels.mean(-1)
    grey = grey - grey.mean((1, 2), keepdim=True)
    (path, colour), (path_before, colour_before) = _seen(video, law), _seen(twin, law)
    return Row(
        **known,
        found=body_found(video, law),
        law_residual=measure_law(video, law, fps).law_residual * frame_shares(law),
        path_distance=_mean(state_distance(path, path_before, law)) * frame_shares(law),
        colour_distance=_mean((colour - colour_before).norm(dim=-1)),
        squared_error=(pixels - before).square().mean().item(),
        fine=(FINE(grey).square().sum() / grey.square().sum()).item(),
        motion=pixels.diff(dim=0).abs().mean().item(),
    )


def read(row: dict[str, Any]) -> Row:
    """As `measured.plain` has written it."""
    values: dict[str, Any] = {name: math.nan if value is None else value for name, value in row.items()}
    return Row(**values)


def _seen(video: Frames, law: Event) -> tuple[Tensor, Tensor]:
    """The body's state [variables, frames] and colour [frames, 3]."""
    state = measure_state(video, law)
    return torch.stack([state[name] for name in law.units]), track_body(video, law).colour


def _mean(values: Tensor) -> float:
    """Of those known, if they are enough."""
    return values.nanmean().item() if (~values.isnan()).double().mean() >= FOUND else math.nan
