"""Fits the constants of an event's law to a measured state.

All free fields are searched over their ranges by differential evolution (Storn and Price, 1997), started from the best
points of a Sobol sequence: states are closed forms that take thousands of constants at once, bounces make the objective
rugged, and phases give it many local minima. The distance is absolute, not squared, so that it is robust to a few bad
frames.

Mean absolute errors on rendered truth at 64×64, 18 clips per kind from all splits (worst in brackets): gravity in m/s²,
of 2 to 18, by drop 0.02 (0.08), throw 0.03 (0.15), toss 0.03 (0.09), ramp 0.02 (0.03), swing 0.03 (0.14), drift 0.06
(0.14); restitution 0.002 (0.02), by collision 0.005 (0.02); friction by slide 0.008 (0.03), by spin 0.001 (0.005);
stiffness of 4 to 30 /s² 0.03 (0.14); rate of substances 0.001 (0.005), of the orbit 0.012 (0.05) rad/s. The clips of
`spoilt` quality in the tests have about twice these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.metrics.states import PERIODS
from memkit.worlds.event import Event

FOUND = 2 / 3  # least share of frames in which the state must be seen
_TRIED, _SLIGHT = 9, 1e-3
_FIRST, _MEMBERS, _ROUNDS = 4096, 64, 80


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    A constant is NaN where it has no effect on the clip, such as the restitution of a body that has not landed yet.
    ``residual`` is the mean distance of the state from that of ``event``, in the state's own unit.
    """

    constants: dict[str, float]
    residual: float
    event: Event
    """The measured event with the fitted values."""


def fit_event(
    measured: dict[str, Float[Tensor, " frames"]],
    event: Event,
    seconds: Float[Tensor, " frames"],
    vary: Sequence[str] | None = None,
) -> Fit | None:
    """Fit the fields ``vary`` of the event, by default all ``free`` ones of its law, to a state at times ``seconds``.

    Frames with NaN are left out; returns None where they are more than a third. Only the event's fixed fields are used.
    Deterministic.
    """
    names = list(event.free if vary is None else vary)
    truth = torch.stack([measured[name] for name in event.units])
    seen = ~truth.isnan().any(0)
    if seen.double().mean() < FOUND:
        return None
    truth, seconds = truth[:, seen], seconds[seen]
    low, high = torch.tensor([event.free[name] for name in names], dtype=torch.float64).T

    def distance(share: Tensor) -> Tensor:
        values = low + share * (high - low)
        state = replace(event, **{name: values[:, i, None] for i, name in enumerate(names)}).state(seconds)
        return state_distance(truth, torch.stack([state[name] for name in event.units], dim=-2), event).mean(-1)

    best, residual = _least(distance, len(names))
    values = dict(zip(names, (low + best * (high - low)).tolist(), strict=True))
    fitted = replace(event, **values)
    constants = {name: float(getattr(fitted, name)) for name in event.constants}
    for i, name in enumerate(names):
        others = best.repeat(_TRIED, 1)
        others[:, i] = torch.linspace(0, 1, _TRIED, dtype=torch.float64)
        if name in constants and distance(others).max() <= 2 * residual + _SLIGHT:
            constants[name] = math.nan
    return Fit(constants, residual, fitted)


def law_residual(
    measured: dict[str, Float[Tensor, " frames"]], event: Event, seconds: Float[Tensor, " frames"]
) -> float | None:
    """Mean distance of a state from the law with the event's own constants and the best-fitting start."""
    fit = fit_event(measured, event, seconds, [name for name in event.free if name not in event.constants])
    return None if fit is None else fit.residual


def state_distance(
    a: Float[Tensor, "*n variables frames"], b: Float[Tensor, "*m variables frames"], event: Event
) -> Float[Tensor, "*k frames"]:
    """Distance of two states at each time, in their unit; angles by the shorter way round."""
    off = a - b
    if period := PERIODS.get(event.shows):
        off = off - period * (off / period).round()
    # torch's norm over a dimension other than the last takes 20 times as long, and this dominates a fit
    return off.square().sum(-2).sqrt() if off.shape[-2] > 1 else off.abs()[..., 0, :]


def _least(distance, fields: int) -> tuple[Tensor, float]:
    """The minimum of a function of points [n, fields] in the unit cube, and its value."""
    random = torch.Generator().manual_seed(0)
    points = torch.quasirandom.SobolEngine(fields, scramble=True, seed=0).draw(_FIRST, dtype=torch.float64)
    far = distance(points)
    far, order = far.topk(_MEMBERS, largest=False)
    points = points[order]
    for _ in range(_ROUNDS):
        a, b, c = (points[torch.randint(len(points), (len(points),), generator=random)] for _ in range(3))
        scale = 0.4 + 0.5 * torch.rand(len(points), 1, generator=random, dtype=torch.float64)
        # half of the trials start at the best point: faster than either kind of trial alone
        home = torch.where(torch.rand(len(points), 1, generator=random) < 0.5, points[far.argmin()], c)
        trial = home + scale * (a - b)
        cross = torch.rand(points.shape, generator=random) < 0.9
        trial = torch.where(cross, trial, points)
        trial = torch.where((trial < 0) | (trial > 1), points, trial)
        there = distance(trial)
        better = there < far
        points, far = torch.where(better[:, None], trial, points), torch.where(better, there, far)
    best = far.argmin()
    return points[best], far[best].item()
