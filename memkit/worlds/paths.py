"""Camera paths as data: a walker at eye height who walks straight, turns on the spot and waits.

Poses are (x, y, yaw): metres on the floor, and radians from +x, growing to the left, never wrapped. They are piecewise
linear in time, so poses are exact at any time, and a path that undoes its own steps returns to its start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.errors import InputError

EYE_HEIGHT = 1.5
FOV_DEGREES = 70.0

Motion = Literal["walks forward", "turns left", "turns right", "stands"]
Side = Literal["left", "right"]
Pose = tuple[float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Walk:
    """Walk straight ahead; ``metres`` ≥ 0, ``speed`` in metres per second."""

    metres: float
    speed: float = 1.2

    def __post_init__(self) -> None:
        if self.metres < 0 or self.speed <= 0:
            raise InputError(f"{self} goes backwards or never ends; give metres ≥ 0 and a speed above 0.")

    @property
    def seconds(self) -> float:
        return self.metres / self.speed

    @property
    def motion(self) -> Motion:
        return "walks forward"


@dataclass(frozen=True)
class Turn:
    """Turn on the spot; ``degrees`` to the left, negative to the right; ``speed`` in degrees per second."""

    degrees: float
    speed: float = 40.0

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise InputError(f"{self} never ends; give a speed above 0.")

    @property
    def seconds(self) -> float:
        return abs(self.degrees) / self.speed

    @property
    def motion(self) -> Motion:
        return "turns left" if self.degrees > 0 else "turns right"


@dataclass(frozen=True)
class Wait:
    """Stand still for ``seconds`` ≥ 0."""

    seconds: float

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise InputError(f"{self} ends before it begins; give seconds ≥ 0.")

    @property
    def motion(self) -> Motion:
        return "stands"


Segment = Walk | Turn | Wait


@dataclass(frozen=True)
class Path:
    """Consecutive segments from pose ``start``; before and after them the walker stands."""

    start: Pose
    segments: tuple[Segment, ...] = ()

    @property
    def duration(self) -> float:
        """Duration of all segments in seconds."""
        return float(self._knots[0][-1])

    def then(self, *segments: Segment) -> Path:
        """This path, extended by more segments."""
        return Path(self.start, self.segments + segments)

    @cached_property
    def _moves(self) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if s.seconds > 0)

    @cached_property
    def _knots(self) -> tuple[Tensor, Tensor]:
        """Times [segments + 1] and poses [segments + 1, 3] where segments meet."""
        times, poses = [0.0], [self.start]
        for segment in self._moves:
            times.append(times[-1] + segment.seconds)
            poses.append(_after(poses[-1], segment))
        return torch.tensor(times, dtype=torch.float64), torch.tensor(poses, dtype=torch.float64)

    def _segment(self, seconds: Tensor) -> Tensor:
        """Index of the segment at each time; the last one after the end."""
        times, _ = self._knots
        return (torch.searchsorted(times, seconds.double().contiguous(), right=True) - 1).clamp(
            0, max(len(self._moves) - 1, 0)
        )

    def pose(self, seconds: Float[Tensor, " frames"]) -> Float[Tensor, "frames 3"]:
        """The walker's pose: x and y in metres, yaw in radians; float64."""
        times, poses = self._knots
        if not self._moves:
            return poses.expand(len(seconds), 3)
        i = self._segment(seconds)
        length = (times[i + 1] - times[i]).clamp(min=1e-12)  # a short duration added to a long time may be rounded away
        share = ((seconds.double() - times[i]) / length).clamp(0, 1)[:, None]
        return poses[i] + share * (poses[i + 1] - poses[i])

    def motion(self, seconds: Float[Tensor, " frames"]) -> list[Motion]:
        """The walker's motion at each time; where two segments meet, the second one's."""
        outside = (seconds < 0) | (seconds >= self.duration)
        at = zip(self._segment(seconds).tolist(), outside.tolist(), strict=True)
        return ["stands" if out else self._moves[i].motion for i, out in at]

    def cameras(self, seconds: Float[Tensor, " frames"], fov_degrees: float = FOV_DEGREES) -> Cameras:
        """The walker's camera at each time [frames], float64: level, at an eye height of 1.5 m."""
        x, y, yaw = self.pose(seconds).unbind(-1)
        eye = torch.stack([x, y, torch.full_like(x, EYE_HEIGHT)], dim=-1)
        forward = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], dim=-1)
        return Cameras.look_at(eye, eye + forward, fov_degrees)


def turn_and_return(angle: float, side: Side = "left", wait_seconds: float = 0.5) -> tuple[Segment, ...]:
    """Turn away by ``angle`` degrees, wait, and turn back the same way: a revisit with turns only."""
    degrees = angle if side == "left" else -angle
    return Turn(degrees), Wait(wait_seconds), Turn(-degrees)


def approach(pose: Pose, points: Sequence[Point]) -> tuple[Segment, ...]:
    """From a pose to each of the points, facing it before walking there; turns take the shorter side."""
    segments: list[Segment] = []
    for x, y in points:
        towards = math.atan2(y - pose[1], x - pose[0])
        facing = Turn(math.degrees(math.remainder(towards - pose[2], 2 * math.pi)))
        walk = Walk(math.hypot(x - pose[0], y - pose[1]))
        segments += [facing, walk]
        pose = _after(_after(pose, facing), walk)
    return tuple(segments)


def and_back(there: Sequence[Segment], middle: Sequence[Segment] = ()) -> tuple[Segment, ...]:
    """``there``, ``middle`` (which must end in its initial pose), a half turn, the way back, and the first view again.

    All turns undo each other, so the final yaw equals the first one and is not a full turn off.
    """
    first = next((s.degrees for s in there if isinstance(s, Turn)), 0.0)
    half = -180.0 if first > 0 else 180.0  # opposite to the first turn: the last one is then at most a half turn
    back = [Turn(-s.degrees, s.speed) if isinstance(s, Turn) else s for s in reversed(there)]
    last = -half
    if back and isinstance(back[-1], Turn):
        last += back.pop().degrees
    return (*there, *middle, Turn(half), *back, Turn(last))


def door_and_back(pose: Pose, points: Sequence[Point], middle: Sequence[Segment] = (Wait(0.5),)) -> tuple[Segment, ...]:
    """From a pose along points that lead through a door, ``middle`` there, and back to the first view.

    ``room.door_points`` are such points for ``room.start``.
    """
    return and_back(approach(pose, points), middle)


def _after(pose: Pose, segment: Segment) -> Pose:
    x, y, yaw = pose
    if isinstance(segment, Walk):
        return x + segment.metres * math.cos(yaw), y + segment.metres * math.sin(yaw), yaw
    if isinstance(segment, Turn):
        return x, y, yaw + math.radians(segment.degrees)
    return pose
