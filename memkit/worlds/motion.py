"""Motion in closed form. Constants may be tensors that broadcast against the times."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Number = float | Tensor
_LEAST_FLIGHT = 1e-6  # share of the first flight's speed below which a bouncing body is at rest


def bounce_height(
    seconds: Float[Tensor, "*times"], height: Number, gravity: Number, restitution: Number
) -> Float[Tensor, "*out"]:
    """Height of the lowest point of a body that falls from rest at t=0 from ``height`` and bounces on a floor at 0.

    The flights after the k-th bounce last T·eᵏ with T = 2·√(2h/g); their start times are a geometric series, so
    the flight at any time follows without time steps. Before t=0 the body rises to ``height``.
    """
    height, gravity, e = (torch.as_tensor(x, dtype=seconds.dtype) for x in (height, gravity, restitution))
    fall = (2 * height / gravity).sqrt()
    since = (seconds - fall).clamp(min=0)
    falling = height - 0.5 * gravity * seconds**2
    e = e.clamp(min=1e-6, max=1 - 1e-9)
    first = 2 * fall * e  # duration of the first flight after the first bounce
    left = 1 - since * (1 - e) / first  # eᵏ at the start of flight k
    resting = left <= _LEAST_FLIGHT
    k = (left.clamp(min=_LEAST_FLIGHT).log() / e.log() + 1e-6).floor()
    tau = since - first * (1 - e**k) / (1 - e)
    speed = gravity * fall * e ** (k + 1)
    bounced = (speed * tau - 0.5 * gravity * tau**2).clamp(min=0).masked_fill(resting, 0.0)
    return torch.where(seconds < fall, falling, bounced)


def brake(seconds: Float[Tensor, "*times"], speed: Number, deceleration: Number) -> Float[Tensor, "*out"]:
    """Distance (or angle) from an initial ``speed`` under constant ``deceleration`` until the stop; both positive."""
    speed, deceleration = (torch.as_tensor(x, dtype=seconds.dtype) for x in (speed, deceleration))
    t = torch.minimum(seconds, speed / deceleration)
    return speed * t - 0.5 * deceleration * t**2


def swing(seconds: Float[Tensor, "*times"], amplitude: Number, rate: Number, phase: Number, damping: float) -> Tensor:
    """A damped oscillation; ``rate`` in radians per second, ``damping`` in 1/s."""
    return amplitude * torch.exp(-damping * seconds) * torch.cos(rate * seconds + phase)


def approach(seconds: Float[Tensor, "*times"], speed: Number, settling: float) -> Tensor:
    """Distance covered from rest towards a terminal ``speed``, with the time constant ``settling``."""
    return speed * (seconds - settling * (1 - torch.exp(-seconds / settling)))
