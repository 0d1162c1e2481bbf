"""Bodies that swing, bob, spin and drift."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import PLANETS, Split
from memkit.worlds.event import Event, Part, Shows, at, random_look, rgb
from memkit.worlds.motion import Number, brake, swing
from memkit.worlds.scene import Body, body, rotation_about
from memkit.worlds.solids import GREY, Solid, random_solid

_SMALL = ("small", "medium")


@dataclass(frozen=True)
class Swing(Solid):
    """A pendulum with small swings, suspended at ``PIVOT``."""

    length: float
    amplitude: Number
    phase: Number = 0.0

    kind: ClassVar[str] = "swing"
    law: ClassVar[str] = "angle'' = -(gravity / length + damping²) angle - 2 damping angle'"
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
    def draw(cls, rng: random.Random, split: Split) -> Swing:
        """A random event of this kind."""
        solid = random_solid(rng, split, _SMALL, shape="ball")
        swing_ = rng.choice((-1, 1)) * math.radians(rng.uniform(18, 34))
        return cls(**solid, length=rng.uniform(1.7, 2.9), amplitude=abs(swing_), phase=0.0 if swing_ > 0 else math.pi)

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
        rod = body("rod", "box", middle, (0.06, 0.06, 0.5 * self.length), GREY, rotation_about(-angle, "y"))
        return rod, self.shaped(x + self.length * across, 0.0, z + self.length * down)


@dataclass(frozen=True)
class Spring(Solid):
    """A body on a spring; ``stiffness`` is per unit of mass: the square of the angular frequency."""

    middle: Number
    amplitude: Number
    stiffness: Number
    phase: Number = 0.0

    kind: ClassVar[str] = "spring"
    law: ClassVar[str] = "z'' = -(stiffness + damping²) (z - middle) - 2 damping z'"
    units: ClassVar[dict[str, str]] = {"z": "m"}
    shows: ClassVar[Shows] = "position"
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
    def draw(cls, rng: random.Random, split: Split) -> Spring:
        """A random event of this kind."""
        solid, phase = random_solid(rng, split, _SMALL), rng.choice((0.0, math.pi))
        return cls(
            **solid,
            middle=rng.uniform(1.6, 2.1),
            amplitude=rng.uniform(0.5, 1.0),
            stiffness=rng.uniform(4.0, 30.0),
            phase=phase,
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
class Spin(Solid):
    """A bar spins on a post, slowed by friction in its bearing; ``side`` 1 is clockwise."""

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
    def draw(cls, rng: random.Random, split: Split) -> Spin:
        """A random event of this kind."""
        solid, side = random_solid(rng, split, shape="bar"), rng.choice((-1.0, 1.0))
        return cls(**solid, angle=rng.uniform(-1.5, 1.5), rate=rng.uniform(2.0, 4.5), side=side)

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Angle from the horizontal, clockwise as seen."""
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
        rotation = rotation_about(self.state(seconds)["angle"], "y")
        return (body("body", "box", at(0.0 * seconds, 0.0, self.HUB), half, rgb(self.colour), rotation),)


@dataclass(frozen=True)
class Drift(Event):
    """A leaf sinks at a terminal speed proportional to the square root of gravity, and sways."""

    planet: str
    gravity: Number
    x: Number
    z: Number
    phase: Number

    kind: ClassVar[str] = "drift"
    law: ClassVar[str] = "z' = -0.3 sqrt(gravity), to the floor; x sways"
    units: ClassVar[dict[str, str]] = {"x": "m", "z": "m"}
    shows: ClassVar[Shows] = "position"
    constants: ClassVar[tuple[str, ...]] = ("gravity",)
    free: ClassVar[dict[str, tuple[float, float]]] = {
        "gravity": (0.2, 40.0),
        "x": (-2.0, 2.0),
        "z": (0.5, 4.0),
        "phase": (-math.pi, math.pi),
    }
    HALF: ClassVar[tuple[float, float, float]] = (0.5, 0.35, 0.17)

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Drift:
        """A random event of this kind."""
        colour, place = random_look(rng)
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
