"""How well a clip, rendered or generated, obeys the law of the event that its caption describes.

The accuracy of the estimator on rendered truth is in `memkit.metrics.fit`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.metrics.fit import fit_event, law_residual, state_distance
from memkit.metrics.states import frame_shares, measure_state
from memkit.metrics.track import hue_of, track_body
from memkit.worlds.event import FPS, Event, times

RESIDUAL = 0.06  # mean distance as a share of the frame beyond which a motion obeys no law of its kind
STEP = 0.3  # share of the frame beyond which a step is to another body; the fastest body moves 0.25


@dataclass(frozen=True)
class LawMeasure:
    """How well one clip obeys a law; all NaN where it is not ``found``: there is no body, or it obeys no such law.

    Errors and residuals are means over the frames in which the state is seen, in its unit (``event.units``).
    """

    found: bool
    found_share: float
    """Share of the frames in which the state is seen."""
    constants: dict[str, float]
    """Fitted values; see `Event.constants`."""
    state_error: float
    """Distance from the event's own state, whose start the caption does not tell."""
    law_residual: float
    """Distance from the law with the event's own constants and the start that fits the clip best."""
    residual: float
    """Distance from the nearest law of the kind."""

    @property
    def gravity(self) -> float:
        """In m/s²; NaN where the law has none."""
        return self.constants.get("gravity", math.nan)

    @property
    def restitution(self) -> float:
        """Ratio of speeds after and before a bounce; NaN where the law has none."""
        return self.constants.get("restitution", math.nan)


def measure_law(
    video: UInt8[Tensor, "frames height width 3"], event: Event, fps: float = FPS, start: float = 0.0
) -> LawMeasure:
    """Measure a clip of any size and length, which begins ``start`` seconds into an event, against the event's law."""
    seconds, measured = times(len(video), fps, start), measure_state(video, event)
    state = torch.stack([measured[name] for name in event.units])
    share = (~state.isnan().any(0)).double().mean().item()
    fit = fit_event(measured, event, seconds)
    if fit is None or fit.residual * frame_shares(event) > RESIDUAL:
        unknown = dict.fromkeys(event.constants, math.nan)
        return LawMeasure(False, share, unknown, math.nan, math.nan, math.nan)
    truth = event.state(seconds)
    off = state_distance(state, torch.stack([truth[name] for name in event.units]), event)
    stray = law_residual(measured, event, seconds)
    assert stray is not None  # it uses the same frames as the fit
    return LawMeasure(True, share, fit.constants, off.nanmean().item(), stray, fit.residual)


def body_found(video: UInt8[Tensor, "frames height width 3"], event: Event, share: float = 0.9) -> bool:
    """Whether the body that the caption names is seen, in its colour, in at least the given ``share`` of frames."""
    track = track_body(video, event)
    step = torch.diff(track.centre, dim=0, prepend=track.centre[:1]).norm(dim=-1)
    seen = track.found & ~(step > STEP)  # NaN after a frame without the body: any step is allowed
    return seen.double().mean().item() >= share and hue_of(track, event) == event.colour
