"""A solid body of a named material on a named planet, and three ways of falling: dropped, tossed up, thrown."""

from __future__ import annotations

import random
from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import MATERIALS, PLANETS, SIZES, Split
from memkit.worlds.event import Event, Part, Shows, at, random_look, rgb
from memkit.worlds.motion import Number, bounce_height
from memkit.worlds.scene import Body, Shape, body

GREY = (0.36, 0.37, 0.40)
"""Colour of ramps, rods and posts."""
SHAPES: dict[str, Shape] = {"ball": "sphere", "cube": "box"}


@dataclass(frozen=True)
class Solid(Event, ABC):
    """A ball or cube. ``gravity``, ``restitution`` and ``friction`` are those of ``planet`` and ``material``."""

    size: str
    shape: str
    material: str
    planet: str
    gravity: Number
    restitution: Number
    friction: Number

    @property
    def half(self) -> float:
        """Radius or half edge."""
        return SIZES[self.size]

    def noun(self) -> tuple[Part, ...]:
        """The parts of the caption for the body."""
        size, material = Part(self.size), Part(self.material, name=self.material)
        return Part("a", True), size, Part(self.colour, True), material, Part(self.shape, True)

    def where(self) -> tuple[Part, ...]:
        """The parts of the caption for place and planet."""
        return Part(self.place), Part(f"on planet {self.planet}", name=self.planet)

    def shaped(self, x: Number, y: Number, z: Number, rotation: Tensor | None = None) -> Body:
        """The body at a position."""
        return body("body", SHAPES[self.shape], at(x, y, z), self.half, rgb(self.colour), rotation)


def random_solid(
    rng: random.Random, split: Split, sizes: tuple[str, ...] = tuple(SIZES), shape: str | None = None
) -> dict[str, Any]:
    """Random values of the fields of `Solid` and `Event`."""
    colour, place = random_look(rng)
    planet, material = rng.choice(sorted(PLANETS[split])), rng.choice(sorted(MATERIALS[split]))
    constants = MATERIALS[split][material]
    size, drawn = rng.choice(sizes), rng.choice(sorted(SHAPES))
    return {
        "colour": colour,
        "place": place,
        "size": size,
        "shape": shape or drawn,
        "material": material,
        "planet": planet,
        "gravity": PLANETS[split][planet],
        "restitution": constants.restitution,
        "friction": constants.friction,
    }


@dataclass(frozen=True)
class Fall(Solid, ABC):
    """A body that falls and bounces. At t=0 its lowest point is at ``height``, and its velocity is (speed, lift)."""

    x: Number
    height: Number
    speed: Number = 0.0
    lift: Number = 0.0

    law: ClassVar[str] = "z'' = -gravity; at the floor z' becomes -restitution z'; x' is constant"
    units: ClassVar[dict[str, str]] = {"x": "m", "z": "m"}
    shows: ClassVar[Shows] = "position"
    constants: ClassVar[tuple[str, ...]] = ("gravity", "restitution")
    does: ClassVar[str]

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centre of the body."""
        peak = self.height + self.lift**2 / (2 * self.gravity)
        z = bounce_height(seconds - self.lift / self.gravity, peak, self.gravity, self.restitution) + self.half
        return {"x": self.x + self.speed * seconds + 0 * z, "z": z}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red rubber ball falls in a lab on planet Arda"."""
        return *self.noun(), Part(self.does, True), *self.where()

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The body."""
        state = self.state(seconds)
        return (self.shaped(state["x"], 0.0, state["z"]),)


@dataclass(frozen=True)
class Drop(Fall):
    """Dropped from rest."""

    kind: ClassVar[str] = "drop"
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "gravity": (0.5, 25.0),
        "restitution": (0.0, 0.95),
        "height": (0.1, 3.6),
        "x": (-2.2, 2.2),
    }
    does: ClassVar[str] = "falls"

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Drop:
        """A random event of this kind."""
        return cls(**random_solid(rng, split), x=rng.uniform(-1.2, 1.2), height=rng.uniform(1.4, 2.7))


@dataclass(frozen=True)
class Throw(Fall):
    """Thrown horizontally."""

    kind: ClassVar[str] = "throw"
    free: ClassVar[dict[str, tuple[float, float]]] = {**Drop.free, "speed": (-2.5, 2.5)}
    does: ClassVar[str] = "is thrown"

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Throw:
        """A random event of this kind."""
        solid, speed = random_solid(rng, split), rng.choice((-1, 1)) * rng.uniform(0.4, 1.1)
        return cls(**solid, x=-speed, height=rng.uniform(1.4, 2.7), speed=speed)


@dataclass(frozen=True)
class Toss(Fall):
    """Tossed straight up from near the floor."""

    kind: ClassVar[str] = "toss"
    free: ClassVar[dict[str, tuple[float, float]]] = {**Drop.free, "lift": (0.0, 11.0)}
    does: ClassVar[str] = "is tossed up"

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Toss:
        """A random event of this kind."""
        solid, height = random_solid(rng, split), rng.uniform(0.0, 0.8)
        lift = (2 * float(solid["gravity"]) * (rng.uniform(1.8, 2.7) - height)) ** 0.5
        return cls(**solid, x=rng.uniform(-1.2, 1.2), height=height, lift=lift)
