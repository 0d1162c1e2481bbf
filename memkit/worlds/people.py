"""Movers in a room: people who walk back and forth or in circles, floating balls; each with a law in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import COLOURS
from memkit.worlds.scene import Body, body

PERSON_RADIUS = 0.22
_HEAD_RADIUS = 0.15


@dataclass(frozen=True)
class Patrol:
    """A person who walks back and forth between ``a`` and ``b``, ``offset`` metres along at t=0."""

    kind: ClassVar[str] = "patrol"
    law: ClassVar[str] = "s = d - |(offset + v t) mod 2d - d|, (x, y) = a + (b - a) s / d"
    verb: ClassVar[str] = "walks"
    colour: str
    height: float
    a: tuple[float, float]
    b: tuple[float, float]
    speed: float
    offset: float

    @property
    def name(self) -> str:
        return f"person in {self.colour}"

    @property
    def words(self) -> str:
        return f"a {self.name} {self.verb}"

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """``s``, metres from ``a``, ``x`` and ``y`` at each time."""
        length = math.dist(self.a, self.b)
        s = length - ((self.offset + self.speed * seconds.double()) % (2 * length) - length).abs()
        x, y = (a + (b - a) * s / length for a, b in zip(self.a, self.b, strict=True))
        return {"s": s, "x": x, "y": y}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        return _person(self.colour, self.height, self.state(seconds))


@dataclass(frozen=True)
class Circle:
    """A person who walks around ``centre``, counter-clockwise from above if ``speed`` is positive."""

    kind: ClassVar[str] = "circle"
    law: ClassVar[str] = "angle = start + v t / r, (x, y) = centre + r (cos angle, sin angle)"
    verb: ClassVar[str] = "circles"
    colour: str
    height: float
    centre: tuple[float, float]
    radius: float
    speed: float
    start: float

    @property
    def name(self) -> str:
        return f"person in {self.colour}"

    @property
    def words(self) -> str:
        return f"a {self.name} {self.verb}"

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """``angle`` in radians, ``x`` and ``y`` at each time."""
        angle = self.start + self.speed / self.radius * seconds.double()
        x, y = self.centre
        return {"angle": angle, "x": x + self.radius * angle.cos(), "y": y + self.radius * angle.sin()}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        return _person(self.colour, self.height, self.state(seconds))


@dataclass(frozen=True)
class Floating:
    """A ball that floats up and down."""

    kind: ClassVar[str] = "floating"
    law: ClassVar[str] = "z = middle + reach sin(2 pi t / period + phase)"
    verb: ClassVar[str] = "floats"
    colour: str
    x: float
    y: float
    radius: float
    middle: float
    reach: float
    period: float
    phase: float

    @property
    def name(self) -> str:
        return f"{self.colour} ball"

    @property
    def words(self) -> str:
        return f"{with_article(self.name)} {self.verb}"

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """``z`` of the centre at each time; constant ``x`` and ``y``."""
        z = self.middle + self.reach * (2 * math.pi * seconds.double() / self.period + self.phase).sin()
        return {"z": z, "x": torch.full_like(z, self.x), "y": torch.full_like(z, self.y)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        state = self.state(seconds)
        centre = torch.stack([state["x"], state["y"], state["z"]], dim=-1)
        return (body(self.name, "sphere", centre, self.radius, COLOURS[self.colour]),)


Mover = Patrol | Circle | Floating


def with_article(name: str) -> str:
    """ "a red ball", "an orange ball"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _person(colour: str, height: float, state: dict[str, Tensor]) -> tuple[Body, ...]:
    """A cylinder with a sphere on top."""
    trunk = height - 2 * _HEAD_RADIUS
    half = (PERSON_RADIUS, PERSON_RADIUS, trunk / 2)
    x, y = state["x"], state["y"]

    def at(z: float) -> Tensor:
        return torch.stack([x, y, torch.full_like(x, z)], dim=-1)

    return (
        body(f"person in {colour}", "cylinder", at(trunk / 2), half, COLOURS[colour]),
        body(f"head of person in {colour}", "sphere", at(trunk + _HEAD_RADIUS), _HEAD_RADIUS, COLOURS[colour]),
    )
