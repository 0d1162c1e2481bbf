"""Camera paths from the key strings of STEVO-Bench, such as ``"s-3, right-10, left-20, right-10"``.

They look like the keys of `memkit.cameras.keys` but mean something else. This is the convention of HY-WorldPlay, the
first of the models that the benchmark (arXiv 2603.13215) steers, as its code defines it:

- every key acts along or about the camera's own axes (x right, y down, z forward), not those of the world: after
  ``up-10``, ``w`` climbs, and ``left`` tilts the horizon; pitch has no limit;
- one latent frame is 0.08 units or 3°, so ``right-20`` turns by 60°;
- nothing has to be level: the benchmark starts at the identity.

Keys that are held together are written without a sign between them, ``wd-3`` or ``wright-5``, as the benchmark's
converter for LingBot takes them. That converter moves once per *video* frame, so that its ``right-20`` is 240°:
set ``degrees_per_latent=12`` and ``units_per_latent=0.32`` for it.
"""

from __future__ import annotations

import math
import re
from typing import get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.keys import Key, Step, check_length, check_motion, count_of, parse_items
from memkit.errors import InputError

_KEYS = "|".join(sorted(get_args(Key), key=len, reverse=True))  # "down" before "d"
_ITEM = re.compile(rf"((?:{_KEYS})+)-([0-9]+)")


def steps_from_stevo_keys(text: str) -> list[Step]:
    """The steps of ``text``: items ``ACTION-N`` separated by commas; spaces and upper case are ignored.

    Raises:
        InputError: an item that is not ``ACTION-N``, such as the ``w+d-3`` and ``wait-4`` of memkit's own keys; the
            message names it and the valid keys.
    """

    def step_of(item: str) -> Step:
        match = _ITEM.fullmatch(re.sub(r" ?- ?", "-", item))
        if match is None:
            raise InputError(
                f"{item!r} is not ACTION-N as in STEVO-Bench, such as s-3, wd-2 or right-20; "
                f"keys are {', '.join(get_args(Key))}."
            )
        return Step(tuple(re.findall(_KEYS, match[1])), count_of(match[2]))  # pyright: ignore[reportArgumentType]

    return parse_items(text, step_of)


def cameras_from_stevo_keys(
    text: str,
    start: Cameras,
    *,
    units_per_latent: float = 0.08,
    degrees_per_latent: float = 3.0,
    frames_per_latent: int = 4,
) -> Cameras:
    """One camera per video frame, ``[1 + frames_per_latent · N]`` for N latent frames; the first is ``start``.

    Within a step the camera's velocity and turn rate are constant in its own axes, so one that both moves and turns
    follows a circular arc. Poses at latent frames do not depend on ``frames_per_latent``. Computed in fp64, returned
    in the dtype and on the device of ``start``; all frames have its intrinsics.

    Args:
        text: see `steps_from_stevo_keys`.
        start: one camera, fields [4, 4] and [4]. The benchmark's own is the identity.
        units_per_latent: distance moved per latent frame, at least 0. The benchmark does not say how long a unit is.
        degrees_per_latent: angle turned per latent frame, at least 0.
        frames_per_latent: temporal stride of the VAE, 4 for Wan.

    Raises:
        InputError: keys that cannot be parsed, a setting out of range, or a start that is not one rigid pose.
    """
    check_motion(start, units_per_latent, "units", degrees_per_latent, frames_per_latent)
    poses = [start.c2w.detach().cpu().double()[None]]
    steps = steps_from_stevo_keys(text)
    check_length(steps, frames_per_latent)
    for step in steps:
        times = torch.arange(1, step.latents * frames_per_latent + 1, dtype=torch.float64) / frames_per_latent
        poses.append(poses[-1][-1] @ _motions(step, times, units_per_latent, math.radians(degrees_per_latent)))
    c2w = torch.cat(poses).to(start.c2w)
    return Cameras(c2w, start.intrinsics.expand(len(c2w), 4).clone())


def _motions(
    step: Step, times: Float64[Tensor, " frames"], units: float, radians: float
) -> Float64[Tensor, "frames 4 4"]:
    """The camera's motion in its own axes since the step began, ``times`` in latent frames.

    It is the exponential of a constant twist: Rodrigues' formula for the rotation, its integral for the position.
    """

    def sign(plus: Key, minus: Key) -> int:
        return (plus in step.keys) - (minus in step.keys)

    pitch, yaw = sign("up", "down"), sign("right", "left")  # about +x and +y
    cross = torch.tensor([[0, 0, yaw], [0, 0, -pitch], [-yaw, pitch, 0]], dtype=torch.float64)
    cross /= math.hypot(pitch, yaw) or 1.0
    velocity = units * torch.tensor([sign("d", "a"), 0, sign("w", "s")], dtype=torch.float64)
    angles = (radians * math.hypot(pitch, yaw) * times)[:, None, None]
    safe = angles.clamp(min=torch.finfo(torch.float64).tiny)
    eye = torch.eye(3, dtype=torch.float64)
    motions = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
    motions[:, :3, :3] = eye + angles.sin() * cross + (1 - angles.cos()) * (cross @ cross)
    arc = eye + (1 - angles.cos()) / safe * cross + (angles - angles.sin()) / safe * (cross @ cross)
    motions[:, :3, 3] = times[:, None] * (arc @ velocity)
    return motions
