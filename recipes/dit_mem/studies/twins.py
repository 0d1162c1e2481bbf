"""How far a filtered clip is from its unfiltered twin, generated from the same noise, and the table of all clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.encoders import HighPass
from memkit.evaluation import Table, interval
from memkit.metrics import Interval, body_found, measure_law, measure_state, track_body
from memkit.metrics.fit import FOUND, state_distance
from memkit.metrics.states import frame_shares
from memkit.worlds import Event

UNFILTERED = "unfiltered"
FINE = HighPass(math.inf, 0.25, "ideal")  # cycles per pixel
Frames = UInt8[Tensor, "frames height width 3"]


@dataclass(frozen=True)
class Row:
    """The scores of one clip. What could not be measured is NaN."""

    condition: str
    prompt: int
    changed: float
    """The dose: the change of the state as a share of its own mean square, mean over the calls of the model."""
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
    """The row of a clip; ``known`` are its condition, prompt and dose."""
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


def _seen(video: Frames, law: Event) -> tuple[Tensor, Tensor]:
    """The body's state [variables, frames] and colour [frames, 3]."""
    state = measure_state(video, law)
    return torch.stack([state[name] for name in law.units]), track_body(video, law).colour


def _mean(values: Tensor) -> float:
    """Mean of the values that are not NaN; NaN where too few are not."""
    return values.nanmean().item() if (~values.isnan()).double().mean() >= FOUND else math.nan


def tabulate(rows: dict[tuple[str, int], Row], names: list[str], prompts: int) -> Table:
    """One row per condition; twins are not compared with themselves."""

    def column(name: str, field: str) -> np.ndarray:
        itself = name == UNFILTERED and field in ("path_distance", "colour_distance", "squared_error")
        values = np.array([getattr(rows[name, i], field) for i in range(prompts)], dtype=float)
        return np.full_like(values, math.nan) if itself else values

    def mean(name: str, field: str) -> Interval:
        values = column(name, field)
        return interval(np.mean, 100 * values[None, ~np.isnan(values)])

    return {
        name: {
            "state changed, %": mean(name, "changed"),
            "found, %": mean(name, "found"),
            "colour distance, %": mean(name, "colour_distance"),
            "path distance, %": mean(name, "path_distance"),
            "PSNR, dB": interval(psnr_of_all, column(name, "squared_error")[None]),
            "fine, %": mean(name, "fine"),
            "motion, ratio": interval(_ratio, column(name, "motion")[None], column(UNFILTERED, "motion")[None]),
            "law residual, %": mean(name, "law_residual"),
        }
        for name in names
    }


def psnr_of_all(squared_error: np.ndarray) -> float:
    """In dB, of the mean error of all clips; NaN of equal ones."""
    return -10 * math.log10(error) if (error := squared_error.mean()) > 0 else math.nan


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    return a.mean() / b.mean() if b.any() else math.nan
