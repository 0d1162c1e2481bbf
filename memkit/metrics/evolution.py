"""Whether a process continued while it was hidden: recovery frames against the uninterrupted twin.

An event (an occluder, lights off, a look away) hides a process; the *recovery* frames are those after it. The *twin* is
the same clip without the event, and *frozen* the state or frame just before it, held still. The score is

    evolution = 1 − d(generated, twin) / d(frozen, twin):

1 is the correct evolution, 0 is as far off as a stopped world, below 0 is farther off. It is our offline substitute for
the judges of STEVO-Bench (arXiv 2603.13215), which ask whether the state evolved during the hidden interval; score and
distance d are our own.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from memkit.checks import check_choice
from memkit.errors import InputError
from memkit.metrics.quality import Frames, check_videos

Distance = Literal["rmse", "mae", "mse"]


class StateScore(NamedTuple):
    """A score over the frames in which the state was found, and their share of all frames, in [0, 1]."""

    value: float
    found: float


def evolution_score(
    generated: Frames,
    twin: Frames,
    frozen: Frames,
    mask: Shaped[Tensor, "..."] | None = None,
    distance: Distance = "rmse",
) -> float:
    """The score of pixels over all recovery frames; at most 1, NaN where the twin does not differ from frozen.

    ``generated`` and ``twin`` are the recovery frames, uint8 ``[T, H, W, 3]``; ``frozen`` is the frame before the
    event ``[H, W, 3]`` or, where the camera moves, the stopped world as seen in each recovery frame ``[T, H, W, 3]``.
    ``mask``, bool ``[H, W]`` or ``[T, H, W]``, is True at the pixels to compare (NaN if there are none). A
    perfectly copied background has no effect, but a noisy one has: mask the body in both frozen and the twin; a mask of
    the twin's body alone does not penalise a second body at the old position.

    ``distance`` is of 8-bit values: root mean square ("rmse", the default, with which a blend of a parts twin and 1 − a
    parts frozen scores a), mean absolute ("mae", the same for a blend, more robust to a few pixels), or mean square
    ("mse"). Raises `InputError` for other shapes, dtypes or distances.
    """
    check_videos(generated, twin)
    if frozen.shape == twin.shape[1:]:
        frozen = frozen.expand_as(twin)
    check_videos(frozen, twin)
    mask = torch.ones(twin.shape[:3], dtype=torch.bool) if mask is None else mask
    if mask.dtype != torch.bool or mask.shape not in (twin.shape[:3], twin.shape[1:3]):
        raise InputError(
            f"The mask is {mask.dtype} {tuple(mask.shape)}; give bool [H, W] or [T, H, W] for {tuple(twin.shape)}."
        )
    mask = mask.to(twin.device).expand(twin.shape[:3])
    return _score(*(video.to(twin.device)[mask].double() for video in (generated, twin, frozen)), distance)


def state_evolution(
    measured: Float[Tensor, " frames *dims"],
    truth: Float[Tensor, "..."],
    frozen: Float[Tensor, "..."] | float,
    distance: Distance = "rmse",
) -> StateScore:
    """The score of a state over the recovery frames, ``[T]`` or ``[T, D]`` in any unit: an angle, a level, a position.

    ``measured`` is NaN in frames where the state was not found. Both distances leave these out, so they do not lower
    the value: read it together with ``found``. NaN where no frame is found or the truth stays at ``frozen`` (the
    state before the event, a number or ``[D]``) in those that are. Unwrap angles first, or give cosine and sine.
    Raises `InputError` for unequal shapes, a truth or ``frozen`` that is not finite, or an unknown distance.
    """
    measured, truth, found = _check_states(measured, truth)
    frozen = torch.as_tensor(frozen).to(truth)
    if frozen.shape != truth.shape[1:] or not bool(frozen.isfinite().all()):
        raise InputError(f"frozen is {tuple(frozen.shape)}; give one frame's finite state {tuple(truth.shape[1:])}.")
    states = (measured[found], truth[found], frozen.expand_as(truth)[found])
    return StateScore(_score(*states, distance), found.double().mean().item())


def hidden_state_error(
    measured: Float[Tensor, " frames *dims"], truth: Float[Tensor, "..."], extent: float
) -> StateScore:
    """Mean distance of the state from the truth, relative to ``extent``, over the recovery frames where it was found.

    States are ``[T]`` or ``[T, D]`` (then the distance is Euclidean) and NaN where not found, as in `state_evolution`;
    ``extent`` is their range in the same unit, such as the width of the path. NaN where no frame is found. Raises
    `InputError` for unequal shapes, a truth that is not finite, or an extent that is not positive.
    """
    measured, truth, found = _check_states(measured, truth)
    if not 0 < extent < math.inf:
        raise InputError(f"The extent is {extent}; give the range of the state, a positive number.")
    off = (measured - truth).reshape(len(truth), -1).norm(dim=1)
    return StateScore(off[found].mean().item() / extent, found.double().mean().item())


def _check_states(measured: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both in float64, and a mask of the frames where the whole state was found."""
    if measured.shape != truth.shape or measured.ndim not in (1, 2) or not measured.numel():
        raise InputError(f"States of {tuple(measured.shape)} and {tuple(truth.shape)}; give one shape, [T] or [T, D].")
    if not bool(truth.isfinite().all()):
        raise InputError("The true state is not finite in every frame; leave out frames in which it is unknown.")
    measured = measured.to(truth.device).double()
    return measured, truth.double(), ~measured.reshape(len(measured), -1).isnan().any(1)


def _score(generated: Tensor, twin: Tensor, frozen: Tensor, distance: Distance) -> float:
    check_choice("distance", distance, get_args(Distance))
    still = _distance(frozen, twin, distance)
    return 1 - _distance(generated, twin, distance) / still if still > 0 else math.nan


def _distance(x: Tensor, y: Tensor, distance: Distance) -> float:
    """Distance of float64 tensors; NaN for empty ones."""
    off = (x - y).abs()
    if distance == "mae":
        return off.mean().item()
    square = off.square().mean().item()
    return square if distance == "mse" else math.sqrt(square)
