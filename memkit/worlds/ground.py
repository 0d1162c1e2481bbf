"""Solids on the floor and on a slope: sliding, rolling down a ramp, colliding."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import COLOURS, SIZES, Split
from memkit.worlds.event import Part, Shows, at, rgb
from memkit.worlds.motion import Number, brake
from memkit.worlds.scene import Body, body, rotation_about
from memkit.worlds.solids import GREY, SHAPES, Solid, random_solid

_SMALL = ("small", "medium")


@dataclass(frozen=True)
class Slide(Solid):
    """A body slides along the floor until friction stops it; ``side`` is 1 or -1, the direction in x."""

    x: Number
    speed: Number
    side: float

    kind: ClassVar[str] = "slide"
    law: ClassVar[str] = "x'' = -friction gravity, until it stops"
    units: ClassVar[dict[str, str]] = {"x": "m"}
    shows: ClassVar[Shows] = "position"
    constants: ClassVar[tuple[str, ...]] = ("friction",)
    free: ClassVar[dict[str, tuple[float, float]]] = {"friction": (0.01, 0.9), "x": (-2.2, 2.2), "speed": (0.0, 4.0)}

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Slide:
        """A random event of this kind."""
        solid, side = random_solid(rng, split, _SMALL, shape="cube"), rng.choice((-1.0, 1.0))
        return cls(**solid, x=-1.75 * side, speed=rng.uniform(1.0, 1.7), side=side)

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centre of the body."""
        return {"x": self.x + self.side * brake(seconds, self.speed, self.friction * self.gravity)}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red glass cube slides across the floor in a lab on planet Arda"."""
        return *self.noun(), Part("slides across the floor", True), *self.where()

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The body."""
        return (self.shaped(self.state(seconds)["x"], 0.0, self.half),)


@dataclass(frozen=True)
class Ramp(Solid):
    """A ball rolls down a slope and stops at its foot; ``side`` is the direction in x, ``slope`` the angle."""

    slope: float
    along: Number
    side: float

    kind: ClassVar[str] = "ramp"
    law: ClassVar[str] = "along'' = 5/7 gravity sin(slope), until the foot"
    units: ClassVar[dict[str, str]] = {"x": "m", "z": "m"}
    shows: ClassVar[Shows] = "position"
    constants: ClassVar[tuple[str, ...]] = ("gravity",)
    free: ClassVar[dict[str, tuple[float, float]]] = {"gravity": (0.5, 25.0), "along": (-0.5, 1.5)}
    LENGTH: ClassVar[float] = 3.4
    FOOT: ClassVar[float] = 1.7

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Ramp:
        """A random event of this kind."""
        solid, slope = random_solid(rng, split, _SMALL, shape="ball"), math.radians(rng.uniform(14, 30))
        return cls(**solid, slope=slope, along=rng.uniform(0.0, 0.5), side=rng.choice((-1.0, 1.0)))

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centre of the ball."""
        rate = 5 / 7 * self.gravity * math.sin(self.slope)
        rest = self.half * math.tan(0.5 * self.slope)  # where the ball touches floor and slope
        left = (self.LENGTH - self.along - 0.5 * rate * seconds**2).clamp(min=rest)
        x = self.FOOT - left * math.cos(self.slope) + self.half * math.sin(self.slope)
        return {"x": self.side * x, "z": left * math.sin(self.slope) + self.half * math.cos(self.slope)}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red glass ball rolls down a ramp in a lab on planet Arda"."""
        return *self.noun(), Part("rolls down a ramp", True), *self.where()

    def fixtures(self) -> tuple[Body, ...]:
        """The slope, whose foot dips into the floor."""
        middle, thick = 0.5 * self.LENGTH, 0.08
        rotation = rotation_about(torch.tensor([self.side * self.slope], dtype=torch.float64), "y")
        x = self.FOOT - middle * math.cos(self.slope) - thick * math.sin(self.slope)
        z = middle * math.sin(self.slope) - thick * math.cos(self.slope)
        return (body("slope", "box", (self.side * x, 0.0, z), (middle + 0.2, 0.7, thick), GREY, rotation),)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The ball."""
        state = self.state(seconds)
        return (self.shaped(state["x"], 0.0, state["z"]),)


@dataclass(frozen=True)
class Collide(Solid):
    """A body hits a resting one of the same material and shape; masses are proportional to the cube of the size."""

    x: Number
    speed: Number
    other_x: Number
    other_size: str
    other_colour: str

    kind: ClassVar[str] = "collide"
    law: ClassVar[str] = "momentum stays; they part at restitution times the speed of the approach"
    units: ClassVar[dict[str, str]] = {"x": "m", "other_x": "m"}
    shows: ClassVar[Shows] = "pair"
    constants: ClassVar[tuple[str, ...]] = ("restitution",)
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "restitution": (0.0, 0.95),
        "x": (-2.4, 0.5),
        "speed": (0.2, 4.0),
        "other_x": (-1.0, 2.0),
    }

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Collide:
        """A random event of this kind; the body comes from the left."""
        solid = random_solid(rng, split, _SMALL)
        other = rng.choice([c for c in sorted(COLOURS) if c != solid["colour"]])
        speed, size = rng.uniform(1.1, 1.8), rng.choice(_SMALL)
        return cls(**solid, x=-1.8, speed=speed, other_x=rng.uniform(-0.2, 0.5), other_size=size, other_colour=other)

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centres of the moving and the resting body."""
        a, b = self.half**3, SIZES[self.other_size] ** 3
        contact = (self.other_x - self.half - SIZES[self.other_size] - self.x) / self.speed
        contact = torch.as_tensor(contact, dtype=seconds.dtype).clamp(min=0)
        after = (seconds - contact).clamp(min=0)
        mine = (a - self.restitution * b) / (a + b) * self.speed
        theirs = (1 + self.restitution) * a / (a + b) * self.speed
        x = self.x + self.speed * torch.minimum(seconds, contact) + mine * after
        return {"x": x, "other_x": self.other_x + theirs * after}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red rubber ball hits a medium blue ball in a lab"."""
        hits = f"hits a {self.other_size} {self.other_colour} {self.shape}"
        return *self.noun(), Part(hits, True), Part(self.place)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """Both bodies."""
        state, half = self.state(seconds), SIZES[self.other_size]
        other = body("other", SHAPES[self.shape], at(state["other_x"], 0.0, half), half, rgb(self.other_colour))
        return other, self.shaped(state["x"], 0.0, self.half)
