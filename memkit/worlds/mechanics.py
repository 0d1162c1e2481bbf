"""Solids that slide, roll down a ramp, swing, bob on a spring, collide, spin down and drift."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import COLOURS, PLANETS, SIZES, Split
from memkit.worlds.event import Event, Number, Part, Shows, at, pick_look, rgb
from memkit.worlds.motion import brake, deg, swing
from memkit.worlds.scene import Body, body, turned
from memkit.worlds.solids import SHAPES, Solid, pick_solid

GREY = (0.36, 0.37, 0.40)
_SMALL = ("small", "medium")


@dataclass(frozen=True)
class Slide(Solid):
    """Slides along the floor until friction has stopped it; ``side`` is 1 or -1, the direction in x."""

    x: Number
    speed: Number
    side: float

    kind: ClassVar[str] = "slide"
    law: ClassVar[str] = "x'' = -friction gravity, until it stops"
    units: ClassVar[dict[str, str]] = {"x": "m"}
    shows: ClassVar[Shows] = "place"
    constants: ClassVar[tuple[str, ...]] = ("friction",)
    free: ClassVar[dict[str, tuple[float, float]]] = {"friction": (0.01, 0.9), "x": (-2.2, 2.2), "speed": (0.0, 4.0)}

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one."""
        solid, side = pick_solid(rng, split, _SMALL) | {"shape": "cube"}, rng.choice((-1.0, 1.0))
        return cls(**solid, x=-1.75 * side, speed=rng.uniform(1.0, 1.7), side=side)  # type: ignore[arg-type]

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
    shows: ClassVar[Shows] = "place"
    constants: ClassVar[tuple[str, ...]] = ("gravity",)
    free: ClassVar[dict[str, tuple[float, float]]] = {"gravity": (0.5, 25.0), "along": (-0.5, 1.5)}
    LENGTH: ClassVar[float] = 3.4
    FOOT: ClassVar[float] = 1.7

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one."""
        solid, slope = pick_solid(rng, split, _SMALL) | {"shape": "ball"}, deg(rng.uniform(14, 30))
        return cls(**solid, slope=slope, along=rng.uniform(0.0, 0.5), side=rng.choice((-1.0, 1.0)))  # type: ignore[arg-type]

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
        turn = turned(torch.tensor([self.side * self.slope], dtype=torch.float64), "y")
        x = self.FOOT - middle * math.cos(self.slope) - thick * math.sin(self.slope)
        z = middle * math.sin(self.slope) - thick * math.cos(self.slope)
        return (body("slope", "box", (self.side * x, 0.0, z), (middle + 0.2, 0.7, thick), GREY, turn),)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The ball."""
        state = self.state(seconds)
        return (self.shaped(state["x"], 0.0, state["z"]),)


@dataclass(frozen=True)
class Swing(Solid):
    """A pendulum of small swings, hung at ``PIVOT``."""

    length: float
    amplitude: Number
    phase: Number = 0.0

    kind: ClassVar[str] = "swing"
    law: ClassVar[str] = "angle'' = -gravity / length angle - 2 damping angle'"
    units: ClassVar[dict[str, str]] = {"angle": "rad"}
    shows: ClassVar[Shows] = "angle"
    constants: ClassVar[tuple[str, ...]] = ("gravity",)
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "gravity": (0.5, 25.0),
        "amplitude": (0.02, 1.2),
        "phase": (-math.pi, math.pi),
    }
    PIVOT: ClassVar[tuple[float, float]] = (0.0, 3.9)
    DAMPING: ClassVar[float] = 0.06

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one."""
        solid = pick_solid(rng, split, _SMALL) | {"shape": "ball"}
        swing_ = rng.choice((-1, 1)) * deg(rng.uniform(18, 34))
        return cls(**solid, length=rng.uniform(1.7, 2.9), amplitude=abs(swing_), phase=0.0 if swing_ > 0 else math.pi)  # type: ignore[arg-type]

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Angle from straight down, positive to the right."""
        rate = (self.gravity / self.length) ** 0.5
        return {"angle": swing(seconds, self.amplitude, rate, self.phase, self.DAMPING)}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red steel ball swings on a rod in a lab on planet Arda"."""
        return *self.noun(), Part("swings on a rod", True), *self.where()

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """Rod and bob."""
        angle = self.state(seconds)["angle"]
        x, z = self.PIVOT
        down, across = -angle.cos(), angle.sin()
        middle = at(x + 0.5 * self.length * across, 0.0, z + 0.5 * self.length * down)
        rod = body("rod", "box", middle, (0.06, 0.06, 0.5 * self.length), GREY, turned(-angle, "y"))
        return rod, self.shaped(x + self.length * across, 0.0, z + self.length * down)


@dataclass(frozen=True)
class Spring(Solid):
    """A body hung on a spring, whose ``stiffness`` over its mass is the square of its rate."""

    middle: Number
    amplitude: Number
    stiffness: Number
    phase: Number = 0.0

    kind: ClassVar[str] = "spring"
    law: ClassVar[str] = "z'' = -stiffness (z - middle) - 2 damping z'"
    units: ClassVar[dict[str, str]] = {"z": "m"}
    shows: ClassVar[Shows] = "place"
    constants: ClassVar[tuple[str, ...]] = ("stiffness",)
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "stiffness": (0.5, 60.0),
        "middle": (0.5, 3.0),
        "amplitude": (0.02, 1.6),
        "phase": (-math.pi, math.pi),
    }
    DAMPING: ClassVar[float] = 0.15
    BEAM: ClassVar[float] = 4.05

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one."""
        solid, phase = pick_solid(rng, split, _SMALL), rng.choice((0.0, math.pi))
        return cls(  # type: ignore[arg-type]
            **solid, middle=rng.uniform(1.6, 2.1), amplitude=rng.uniform(0.5, 1.0), stiffness=rng.uniform(4.0, 30.0), phase=phase
        )

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Height of the centre."""
        return {"z": self.middle + swing(seconds, self.amplitude, self.stiffness**0.5, self.phase, self.DAMPING)}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red steel cube bobs on a spring in a lab"; neither planet nor material changes it."""
        return *self.noun(), Part("bobs on a spring", True), Part(self.place)

    def fixtures(self) -> tuple[Body, ...]:
        """The beam."""
        return (body("beam", "box", (0.0, 0.0, self.BEAM), (0.9, 0.15, 0.1), GREY),)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """Spring and body."""
        z = self.state(seconds)["z"]
        half = at(0.07, 0.07, 0.5 * (self.BEAM - z))
        return body("spring", "cylinder", at(0.0, 0.0, 0.5 * (self.BEAM + z)), half, GREY), self.shaped(0.0, 0.0, z)


@dataclass(frozen=True)
class Collide(Solid):
    """A body runs into another of the same material and shape, which waits; masses go with the cube of the size."""

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
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one, from the left."""
        solid = pick_solid(rng, split, _SMALL)
        other = rng.choice([c for c in sorted(COLOURS) if c != solid["colour"]])
        speed, size = rng.uniform(1.1, 1.8), rng.choice(_SMALL)
        return cls(**solid, x=-1.8, speed=speed, other_x=rng.uniform(-0.2, 0.5), other_size=size, other_colour=other)  # type: ignore[arg-type]

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centres of the one that comes and the one that waits."""
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


@dataclass(frozen=True)
class Spin(Solid):
    """A bar turns on a post and is slowed by friction in its bearing; ``side`` 1 is clockwise."""

    angle: Number
    rate: Number
    side: float

    kind: ClassVar[str] = "spin"
    law: ClassVar[str] = "angle'' = -8 friction, until it stops"
    units: ClassVar[dict[str, str]] = {"angle": "rad"}
    shows: ClassVar[Shows] = "axis"
    constants: ClassVar[tuple[str, ...]] = ("friction",)
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "friction": (0.01, 0.9),
        "angle": (-math.pi, math.pi),
        "rate": (0.0, 8.0),
    }
    HUB: ClassVar[float] = 1.95

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one."""
        solid, side = pick_solid(rng, split) | {"shape": "bar"}, rng.choice((-1.0, 1.0))
        return cls(**solid, angle=rng.uniform(-1.5, 1.5), rate=rng.uniform(2.0, 4.5), side=side)  # type: ignore[arg-type]

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Angle from level, clockwise as seen."""
        return {"angle": self.angle + self.side * brake(seconds, self.rate, 8 * self.friction)}

    def parts(self) -> tuple[Part, ...]:
        """ "a small red steel bar spins on a post in a lab"."""
        return *self.noun(), Part("spins on a post", True), Part(self.place)

    def fixtures(self) -> tuple[Body, ...]:
        """The post."""
        return (body("post", "box", (0.0, 0.3, 0.5 * self.HUB), (0.1, 0.1, 0.5 * self.HUB), GREY),)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The bar."""
        half = (1.1 + 0.9 * self.half, 0.12, 0.3 * self.half + 0.06)
        turn = turned(self.state(seconds)["angle"], "y")
        return (body("body", "box", at(0.0 * seconds, 0.0, self.HUB), half, rgb(self.colour), turn),)


@dataclass(frozen=True)
class Drift(Event):
    """A leaf sinks at a terminal speed that goes with the root of gravity, and sways."""

    planet: str
    gravity: Number
    x: Number
    z: Number
    phase: Number

    kind: ClassVar[str] = "drift"
    law: ClassVar[str] = "z' = -0.3 sqrt(gravity), to the floor; x sways"
    units: ClassVar[dict[str, str]] = {"x": "m", "z": "m"}
    shows: ClassVar[Shows] = "place"
    constants: ClassVar[tuple[str, ...]] = ("gravity",)
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "gravity": (0.2, 40.0),
        "x": (-2.0, 2.0),
        "z": (0.5, 4.0),
        "phase": (-math.pi, math.pi),
    }
    HALF: ClassVar[tuple[float, float, float]] = (0.5, 0.35, 0.17)

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Self:
        """A random one."""
        colour, place = pick_look(rng)
        planet = rng.choice(sorted(PLANETS[split]))
        x, z, phase = rng.uniform(-0.8, 0.8), rng.uniform(2.9, 3.6), rng.uniform(-math.pi, math.pi)
        return cls(colour, place, planet, PLANETS[split][planet], x, z, phase)

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centre of the leaf."""
        z = (self.z - 0.3 * self.gravity**0.5 * seconds).clamp(min=self.HALF[2])
        sway = 0.5 * torch.sin(2.2 * seconds + self.phase)
        return {"x": self.x + sway + 0 * z, "z": z}

    def parts(self) -> tuple[Part, ...]:
        """ "a red leaf drifts down in a lab on planet Arda"."""
        planet = Part(f"on planet {self.planet}", name=self.planet)
        return Part("a", True), Part(self.colour, True), Part("leaf drifts down", True), Part(self.place), planet

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The leaf."""
        state = self.state(seconds)
        return (body("body", "box", at(state["x"], 0.0, state["z"]), self.HALF, rgb(self.colour)),)
