"""Camera paths from keys, as interactive world models take them: ``"w-3, right-20, left-20"``.

An item ``KEY-N`` is a motion that lasts N latent frames. This is our reading of such strings, as the ``camera_control``
of STEVO-Bench's tasks (arXiv 2603.13215) and the prompts of public interactive world models have them; none says it in
its paper. Keys that are held together are joined: ``w+left-5``. ``wait-4`` stands still.

- ``w`` ``s`` forward and back, ``a`` ``d`` to the left and right: on the level, along the heading of the moment,
  wherever the camera is pitched. Both together, as ``w+d``, add up.
- ``left`` ``right`` yaw about world up (+z), which leaves a level horizon level.
- ``up`` ``down`` pitch about the camera's own x axis, up to ±85°, where the camera stays.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.rigid import check_rigid
from memkit.errors import InputError

MAX_PITCH_DEGREES = 85

Key = Literal["w", "s", "a", "d", "up", "down", "left", "right"]

_OPPOSITE = {"w": "s", "a": "d", "up": "down", "left": "right"}
_KEYS = ", ".join(get_args(Key))
_ANY = "|".join(get_args(Key))
_ITEM = re.compile(rf"(wait|(?:{_ANY})(?:\+(?:{_ANY}))*)-([0-9]{{1,6}})")
_STEEP = MAX_PITCH_DEGREES + 1e-3  # what a path has left at the limit may go on from there


@dataclass(frozen=True)
class Step:
    """Keys held down together, none for waiting, during ``latents`` latent frames. ``str()`` gives the item again.

    Raises:
        InputError: an unknown key, one twice, two that undo each other, or less than one latent frame.
    """

    keys: tuple[Key, ...]
    latents: int

    def __post_init__(self) -> None:
        if self.latents < 1 or len(set(self.keys)) != len(self.keys) or not set(self.keys) <= set(get_args(Key)):
            raise InputError(
                f"{str(self)!r} is no step; hold any of the keys {_KEYS}, each once, for 1 or more latent frames."
            )
        if both := next((f"{a} and {b}" for a, b in _OPPOSITE.items() if {a, b} <= set(self.keys)), None):
            raise InputError(f"{str(self)!r} is no step; {both} undo each other, hold one of them (keys are {_KEYS}).")

    def __str__(self) -> str:
        return f"{'+'.join(self.keys) or 'wait'}-{self.latents}"

    def _balance(self, plus: Key, minus: Key) -> int:
        return (plus in self.keys) - (minus in self.keys)


def steps_from_keys(text: str) -> list[Step]:
    """The steps of ``text``: items ``KEY-N`` between commas, with spaces anywhere between words; capitals are the same.

    Raises:
        InputError: an item that is not ``KEY-N``; it is named, with the keys there are.
    """
    steps = []
    for number, item in enumerate(text.split(","), 1):
        match = _ITEM.fullmatch(re.sub(r"\s*([+-])\s*", r"\1", item.strip().lower()))
        try:
            if match is None:
                raise InputError(f"{item.strip()!r} is not KEY-N, as w-3, w+left-5 or wait-4 are; keys are {_KEYS}.")
            keys = () if match[1] == "wait" else match[1].split("+")
            steps.append(Step(tuple(keys), int(match[2])))  # pyright: ignore[reportArgumentType]
        except InputError as error:
            raise InputError(f"Item {number} of {text!r}: {error}") from None
    return steps


def cameras_from_keys(
    text: str,
    start: Cameras,
    *,
    metres_per_latent: float = 0.4,
    degrees_per_latent: float = 10.0,
    frames_per_latent: int = 4,
) -> Cameras:
    """A camera for each video frame, ``[1 + frames_per_latent · N]`` for N latent frames; the first is ``start``.

    Motion is linear in time within a step, so where a step both walks and turns the camera runs on an arc of a circle.
    Its places do not depend on ``frames_per_latent``. What is undone is undone to the bit: ``right-20, left-20`` ends
    in the start's own numbers, and so does ``w+left-5, s+right-5``. Computed in fp64, in the dtype and on the device of
    ``start``, whose intrinsics all frames have.

    Args:
        text: see `steps_from_keys`.
        start: one camera, fields [4, 4] and [4], in a world whose +z is up. A roll it may have stays.
        metres_per_latent: of a walk in one latent frame, at least 0; the default is 1.6 m/s at 16 frames a second.
        degrees_per_latent: of a turn in one latent frame, at least 0.
        frames_per_latent: of the VAE, 4 for Wan.

    Raises:
        InputError: keys that cannot be read, a setting out of range, a start that is not one rigid pose, or one that
            looks up or down by more than 85° and so has no heading.
    """
    speeds = metres_per_latent, degrees_per_latent
    if not all(0 <= speed < math.inf for speed in speeds) or frames_per_latent < 1:
        raise InputError(
            f"{metres_per_latent} metres and {degrees_per_latent}° a latent frame of {frames_per_latent} frames: "
            "give finite speeds of 0 or more, and at least one frame."
        )
    if start.c2w.shape != (4, 4) or start.intrinsics.shape != (4,):
        raise InputError(f"The start is {list(start.c2w.shape[:-2])} cameras; give one, fields [4, 4] and [4].")
    check_rigid(start.c2w, "The start")
    pose = start.c2w.detach().cpu().double()
    metres, degrees = (Fraction(speed) / frames_per_latent for speed in speeds)
    walk = _Walk(pose)
    for step in steps_from_keys(text):
        for _ in range(step.latents * frames_per_latent):
            walk.frame(step, metres, degrees)
    c2w = _turned(pose, torch.tensor(walk.turns, dtype=torch.float64))
    c2w[:, :2, 3] = torch.tensor(walk.places, dtype=torch.float64)
    return Cameras(c2w.to(start.c2w), start.intrinsics.expand(len(c2w), 4).clone())


class _Walk:
    """Where the camera is and how far it has turned, frame by frame.

    Sums are fractions, not floats: only so does what is undone leave nothing behind.
    """

    def __init__(self, pose: Tensor) -> None:
        right_down_forward = pose[:3, :3]
        x, y, z = right_down_forward[:, 2].tolist()
        pitch = math.degrees(math.atan2(z, -float(right_down_forward[2, 1])))
        if abs(pitch) > _STEEP:
            raise InputError(
                f"The start is pitched by {pitch:.0f}°, more than {MAX_PITCH_DEGREES}° from the horizon, and has no "
                "heading. World +z is up: if the poses have another up (an identity looks along +z), turn them first."
            )
        self._heading = math.atan2(y, x)
        self._lowest = min(Fraction(0), -MAX_PITCH_DEGREES - Fraction(pitch))
        self._highest = max(Fraction(0), MAX_PITCH_DEGREES - Fraction(pitch))
        self._yaw = self._pitch = Fraction(0)  # degrees from the start: to the left, up
        self._place = [Fraction(float(pose[0, 3])), Fraction(float(pose[1, 3]))]
        self.places, self.turns = [], []
        self._record()

    def frame(self, step: Step, metres: Fraction, degrees: Fraction) -> None:
        """One video frame of a step."""
        turn = step._balance("left", "right") * degrees
        ahead, aside = step._balance("w", "s"), step._balance("d", "a")
        if ahead or aside:
            # An arc's chord has the direction of its middle.
            angle = self._heading + math.radians(self._yaw + turn / 2)
            half = math.radians(turn / 2)
            chord = metres * (math.sin(half) / half if half else 1.0)
            forward = math.cos(angle), math.sin(angle)
            self._place[0] += Fraction(chord * (ahead * forward[0] + aside * forward[1]))
            self._place[1] += Fraction(chord * (ahead * forward[1] - aside * forward[0]))
        self._yaw += turn
        pitch = self._pitch + step._balance("up", "down") * degrees
        self._pitch = min(max(pitch, self._lowest), self._highest)
        self._record()

    def _record(self) -> None:
        yaw, pitch = math.radians(self._yaw), math.radians(self._pitch)
        self.places.append([float(x) for x in self._place])
        self.turns.append([math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)])


def _turned(pose: Tensor, turns: Tensor) -> Tensor:
    """[F, 4, 4] of a pose and [F, 4] cosine and sine of yaw and pitch, without a product of matrices: it might sum in
    another order for another frame, and equal turns would not be equal poses."""
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = turns[:, :, None].unbind(1)
    x, y, z = pose[:3, :3].expand(len(turns), 3, 3).unbind(1)
    yawed = torch.stack([cos_yaw * x - sin_yaw * y, sin_yaw * x + cos_yaw * y, z], dim=1)
    right, down, forward = yawed.unbind(2)
    c2w = pose.repeat(len(turns), 1, 1)
    c2w[:, :3, 0] = right
    c2w[:, :3, 1] = cos_pitch * down + sin_pitch * forward
    c2w[:, :3, 2] = cos_pitch * forward - sin_pitch * down
    return c2w
