"""Camera paths from keys, as interactive world models take them: ``"w-3, right-20, left-20"``.

An item ``KEY-N`` is a motion that lasts N latent frames. This is our reading of such strings in prompts of public
interactive world models; no paper defines them. STEVO-Bench's have another meaning: `memkit.cameras.stevo_keys`. Keys
that are held together are joined: ``w+left-5``. ``wait-4`` stands still.

- ``w`` ``s`` move forward and back, ``a`` ``d`` to the left and right: horizontally, along the current heading,
  whatever the pitch. Both together, as in ``w+d``, add up.
- ``left`` ``right`` yaw about world up (+z), which keeps a level horizon level.
- ``up`` ``down`` pitch about the camera's own x axis, limited to ±85°.

A path lasts at most 100,000 latent frames, in either meaning of the keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.errors import InputError

MAX_PITCH_DEGREES = 85
MOST_LATENTS = 100_000
"""Latent frames of a path: seven hours at 4 frames per latent frame and 16 frames per second."""
MOST_FRAMES = 10 * MOST_LATENTS
FASTEST = 1e6
"""In metres, units or degrees per latent frame."""

Key = Literal["w", "s", "a", "d", "up", "down", "left", "right"]

_OPPOSITE = {"w": "s", "a": "d", "up": "down", "left": "right"}
_KEYS = ", ".join(get_args(Key))
_ANY = "|".join(get_args(Key))
_ITEM = re.compile(rf"(wait|(?:{_ANY})(?:\+(?:{_ANY}))*)-([0-9]+)")
_MOST_SHOWN = 200  # characters of a text in a message
_STEEP = MAX_PITCH_DEGREES + 1e-3  # so that a path that ended at the limit can be continued


@dataclass(frozen=True)
class Step:
    """Keys held down together, none for waiting, for ``latents`` latent frames. ``str()`` gives the item.

    Raises:
        InputError: an unknown key, a key twice, two that cancel each other, fewer than one latent frame or more than
            `MOST_LATENTS`.
    """

    keys: tuple[Key, ...]
    latents: int

    def __post_init__(self) -> None:
        if self.latents < 1 or len(set(self.keys)) != len(self.keys) or not set(self.keys) <= set(get_args(Key)):
            raise InputError(
                f"{str(self)!r} is not a step; hold any of the keys {_KEYS}, each once, for 1 or more latent frames."
            )
        if self.latents > MOST_LATENTS:
            raise InputError(
                f"{str(self)!r} lasts longer than a path may, {MOST_LATENTS:,} latent frames; hold {_KEYS} for less."
            )
        if both := next((f"{a} and {b}" for a, b in _OPPOSITE.items() if {a, b} <= set(self.keys)), None):
            raise InputError(
                f"{str(self)!r} is not a step; {both} cancel each other, hold one of them (keys are {_KEYS})."
            )

    def __str__(self) -> str:
        return f"{'+'.join(self.keys) or 'wait'}-{self.latents}"

    def _sign(self, plus: Key, minus: Key) -> int:
        return (plus in self.keys) - (minus in self.keys)


def steps_from_keys(text: str) -> list[Step]:
    """The steps of ``text``: items ``KEY-N`` separated by commas; spaces and upper case are ignored.

    Raises:
        InputError: an item that is not ``KEY-N``; the message names it and the valid keys.
    """

    def step_of(item: str) -> Step:
        match = _ITEM.fullmatch(re.sub(r" ?([+-]) ?", r"\1", item))
        if match is None:
            raise InputError(f"{item!r} is not KEY-N, such as w-3, w+left-5 or wait-4; keys are {_KEYS}.")
        keys = () if match[1] == "wait" else match[1].split("+")
        return Step(tuple(keys), count_of(match[2]))  # pyright: ignore[reportArgumentType]

    return parse_items(text, step_of)


def parse_items(text: Any, step_of: Callable[[str], Step]) -> list[Step]:
    """The steps of items separated by commas; an `InputError` of ``step_of`` gets the number of its item.

    ``step_of`` gets an item in lower case, without spaces around it, and with a single one where there are more.
    """
    if not isinstance(text, str):
        raise InputError(f"{text!r} are no keys; give a text such as 'w-3, right-20'.")
    steps, latents = [], 0
    for number, item in enumerate(text.split(","), 1):
        item = " ".join(item.lower().split())
        try:
            if len(item) > _MOST_SHOWN:
                raise InputError(f"'{item[:40]}…' has {len(item):,} characters; separate items by commas.")
            steps.append(step_of(item))
            latents += steps[-1].latents
            if latents > MOST_LATENTS:
                raise InputError(f"the path is longer than {MOST_LATENTS:,} latent frames here; end it before.")
        except InputError as error:
            shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
            raise InputError(f"Item {number} of {shown!r}: {error}") from None
    return steps


def count_of(digits: str) -> int:
    """The number that digits stand for; of more than 18, one that `Step` refuses."""
    return int(digits) if len(digits) <= 18 else 10**18


def check_motion(start: Cameras, speed: Any, unit: str, degrees: Any, frames_per_latent: Any) -> None:
    """Raise `InputError` unless ``start`` is one rigid pose, the speeds per latent frame are finite, not negative and
    at most `FASTEST`, and a latent frame has at least one frame. ``unit`` is that of ``speed``."""
    numbers = all(isinstance(each, (int, float)) for each in (speed, degrees)) and isinstance(frames_per_latent, int)
    if not numbers or not all(0 <= each <= FASTEST for each in (speed, degrees)) or frames_per_latent < 1:
        raise InputError(
            f"{speed} {unit} and {degrees}° per latent frame of {frames_per_latent} frames: give finite speeds of 0 or "
            f"more, up to {FASTEST:,.0f}, and at least one frame."
        )
    if start.c2w.shape != (4, 4) or start.intrinsics.shape != (4,):
        raise InputError(f"The start is {list(start.c2w.shape[:-2])} cameras; give one, fields [4, 4] and [4].")
    check_cameras(start, "The start", unknown_focal=True)


def check_length(steps: Sequence[Step], frames_per_latent: int) -> None:
    """Raise `InputError` for a path of more than `MOST_FRAMES` frames."""
    if (frames := frames_per_latent * sum(step.latents for step in steps)) > MOST_FRAMES:
        raise InputError(f"The path has {frames:,} frames, more than {MOST_FRAMES:,}; take fewer latent frames.")


def cameras_from_keys(
    text: str,
    start: Cameras,
    *,
    metres_per_latent: float = 0.4,
    degrees_per_latent: float = 10.0,
    frames_per_latent: int = 4,
) -> Cameras:
    """One camera per video frame, ``[1 + frames_per_latent · N]`` for N latent frames; the first is ``start``.

    Motion is linear in time within a step, so a step that both moves and turns follows a circular arc. Positions do not
    depend on ``frames_per_latent``. Opposite steps cancel exactly: ``right-20, left-20`` ends bit-identical to the
    start, and so does ``w+left-5, s+right-5``. Computed in fp64, returned in the dtype and on the device of ``start``;
    all frames have its intrinsics.

    Args:
        text: see `steps_from_keys`.
        start: one camera, fields [4, 4] and [4], in a world whose +z is up. Its roll, if any, is kept.
        metres_per_latent: distance moved per latent frame, at least 0; the default is 1.6 m/s at 16 frames per second.
        degrees_per_latent: angle turned per latent frame, at least 0.
        frames_per_latent: temporal stride of the VAE, 4 for Wan.

    Raises:
        InputError: keys that cannot be parsed, a setting out of range, or a start that is not one rigid pose or is
            pitched by more than 85°, so that it has no heading.
    """
    check_motion(start, metres_per_latent, "metres", degrees_per_latent, frames_per_latent)
    pose = start.c2w.detach().cpu().double()
    metres, degrees = (Fraction(speed) / frames_per_latent for speed in (metres_per_latent, degrees_per_latent))
    steps, walk = steps_from_keys(text), _Walk(pose)
    check_length(steps, frames_per_latent)
    for step in steps:
        for _ in range(step.latents * frames_per_latent):
            walk.frame(step, metres, degrees)
    c2w = _rotated(pose, torch.tensor(walk.rotations, dtype=torch.float64))
    c2w[:, :2, 3] = torch.tensor(walk.positions, dtype=torch.float64)
    return Cameras(c2w.to(start.c2w), start.intrinsics.expand(len(c2w), 4).clone())


class _Walk:
    """Position and rotation of the camera, frame by frame.

    Sums are fractions, not floats, so that opposite steps cancel exactly.
    """

    def __init__(self, pose: Tensor) -> None:
        right_down_forward = pose[:3, :3]
        x, y, z = right_down_forward[:, 2].tolist()
        pitch = math.degrees(math.atan2(z, -float(right_down_forward[2, 1])))
        if abs(pitch) > _STEEP:
            raise InputError(
                f"The start is pitched by {pitch:.0f}°, more than {MAX_PITCH_DEGREES}° from the horizon, and has no "
                "heading. World +z is up: if the poses have another up axis (the identity looks along +z), rotate them."
            )
        self._heading = math.atan2(y, x)
        self._lowest = min(Fraction(0), -MAX_PITCH_DEGREES - Fraction(pitch))
        self._highest = max(Fraction(0), MAX_PITCH_DEGREES - Fraction(pitch))
        self._yaw = self._pitch = Fraction(0)  # degrees from the start: to the left, up
        self._position = [Fraction(float(pose[0, 3])), Fraction(float(pose[1, 3]))]
        self.positions, self.rotations = [], []
        self._record()

    def frame(self, step: Step, metres: Fraction, degrees: Fraction) -> None:
        """One video frame of a step."""
        turn = step._sign("left", "right") * degrees
        ahead, aside = step._sign("w", "s"), step._sign("d", "a")
        if ahead or aside:
            # The chord of an arc has the direction of the arc's midpoint.
            angle = self._heading + math.radians(self._yaw + turn / 2)
            half = math.radians(turn / 2)
            chord = metres * (math.sin(half) / half if half else 1.0)
            forward = math.cos(angle), math.sin(angle)
            self._position[0] += Fraction(chord * (ahead * forward[0] + aside * forward[1]))
            self._position[1] += Fraction(chord * (ahead * forward[1] - aside * forward[0]))
        self._yaw += turn
        pitch = self._pitch + step._sign("up", "down") * degrees
        self._pitch = min(max(pitch, self._lowest), self._highest)
        self._record()

    def _record(self) -> None:
        yaw, pitch = math.radians(self._yaw), math.radians(self._pitch)
        self.positions.append([float(x) for x in self._position])
        self.rotations.append([math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)])


def _rotated(pose: Tensor, rotations: Tensor) -> Tensor:
    """Poses [F, 4, 4] from one pose and the cosine and sine of yaw and pitch, [F, 4].

    Without a matrix product, whose order of summation may differ between frames: equal rotations must give equal poses.
    """
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = rotations[:, :, None].unbind(1)
    x, y, z = pose[:3, :3].expand(len(rotations), 3, 3).unbind(1)
    yawed = torch.stack([cos_yaw * x - sin_yaw * y, sin_yaw * x + cos_yaw * y, z], dim=1)
    right, down, forward = yawed.unbind(2)
    c2w = pose.repeat(len(rotations), 1, 1)
    c2w[:, :3, 0] = right
    c2w[:, :3, 1] = cos_pitch * down + sin_pitch * forward
    c2w[:, :3, 2] = cos_pitch * forward - sin_pitch * down
    return c2w
