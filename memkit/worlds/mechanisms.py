"""Mechanisms that run at a constant rate, visible or not."""

from __future__ import annotations

import math
import random
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import Split
from memkit.worlds.event import Event, Part, Shows, at, random_look, rgb
from memkit.worlds.motion import Number
from memkit.worlds.processes import DARK
from memkit.worlds.scene import Body, body, rotation_about


@dataclass(frozen=True)
class Mechanism(Event, ABC):
    """A mechanism that runs at a constant ``rate``, for which the caption has no name."""

    start: Number
    rate: Number

    constants: ClassVar[tuple[str, ...]] = ("rate",)
    RATES: ClassVar[tuple[float, float]]
    STARTS: ClassVar[tuple[float, float]]
    words: ClassVar[tuple[str, str]]

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Mechanism:
        """A random event of this kind; it has no named constant, so that all splits are the same."""
        colour, place = random_look(rng)
        return cls(colour, place, rng.uniform(*cls.STARTS), rng.choice((-1, 1)) * rng.uniform(*cls.RATES))

    def parts(self) -> tuple[Part, ...]:
        """ "a red clock hand turns in a lab"."""
        before, after = self.words
        return Part(before, True), Part(self.colour, True), Part(after, True), Part(self.place)


@dataclass(frozen=True)
class Clock(Mechanism):
    """A hand turns on a dial."""

    kind: ClassVar[str] = "clock"
    law: ClassVar[str] = "angle' = rate"
    units: ClassVar[dict[str, str]] = {"angle": "rad"}
    shows: ClassVar[Shows] = "angle"
    free: ClassVar[dict[str, tuple[float, float]]] = {"rate": (-3.0, 3.0), "start": (-math.pi, math.pi)}
    RATES: ClassVar[tuple[float, float]] = (0.3, 0.9)
    STARTS: ClassVar[tuple[float, float]] = (-math.pi, math.pi)
    words: ClassVar[tuple[str, str]] = ("a", "hand turns on a dial")
    PIVOT: ClassVar[tuple[float, float]] = (0.0, 1.95)

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Angle from straight down, positive to the right (counter-clockwise)."""
        return {"angle": self.start + self.rate * seconds}

    def fixtures(self) -> tuple[Body, ...]:
        """The dial."""
        flat = torch.tensor([math.pi / 2], dtype=torch.float64)
        x, z = self.PIVOT
        return (
            body("dial", "cylinder", (x, 0.4, z), (1.65, 1.65, 0.1), (0.70, 0.70, 0.72), rotation_about(flat, "x")),
        )

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The hand, from the middle outwards."""
        angle, (x, z) = self.state(seconds)["angle"], self.PIVOT
        middle = at(x + 0.68 * angle.sin(), 0.1, z - 0.68 * angle.cos())
        return (body("body", "box", middle, (0.17, 0.1, 0.72), rgb(self.colour), rotation_about(-angle, "y")),)


@dataclass(frozen=True)
class Traverse(Mechanism):
    """A block moves along a rail and back."""

    kind: ClassVar[str] = "traverse"
    law: ClassVar[str] = "x' = rate, reversed at each end"
    units: ClassVar[dict[str, str]] = {"x": "m"}
    shows: ClassVar[Shows] = "position"
    free: ClassVar[dict[str, tuple[float, float]]] = {"rate": (-3.0, 3.0), "start": (-1.6, 1.6)}
    RATES: ClassVar[tuple[float, float]] = (0.25, 0.7)
    STARTS: ClassVar[tuple[float, float]] = (-1.4, 1.4)
    words: ClassVar[tuple[str, str]] = ("a", "block goes along a rail")
    END: ClassVar[float] = 1.6
    RAIL: ClassVar[float] = 1.2

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Centre of the block."""
        cycles = (self.start + self.rate * seconds + self.END) / (2 * self.END)
        wave = 1 - ((cycles % 2) - 1).abs()
        return {"x": (2 * wave - 1) * self.END}

    def fixtures(self) -> tuple[Body, ...]:
        """The rail."""
        return (body("rail", "box", (0.0, 0.0, self.RAIL - 0.1), (2.2, 0.12, 0.1), DARK),)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The block."""
        return (body("body", "box", at(self.state(seconds)["x"], 0.0, self.RAIL + 0.45), 0.45, rgb(self.colour)),)


@dataclass(frozen=True)
class Orbit(Mechanism):
    """A ball circles a pole."""

    kind: ClassVar[str] = "orbit"
    law: ClassVar[str] = "angle' = rate, at 1.4 m from the pole"
    units: ClassVar[dict[str, str]] = {"angle": "rad"}
    shows: ClassVar[Shows] = "ground"
    free: ClassVar[dict[str, tuple[float, float]]] = {"rate": (-5.0, 5.0), "start": (-math.pi, math.pi)}
    RATES: ClassVar[tuple[float, float]] = (0.6, 2.2)
    STARTS: ClassVar[tuple[float, float]] = (-math.pi, math.pi)
    words: ClassVar[tuple[str, str]] = ("a", "ball goes round a pole")
    RADIUS: ClassVar[float] = 1.4
    HALF: ClassVar[float] = 0.42

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Angle from the right, growing away from the camera."""
        return {"angle": self.start + self.rate * seconds}

    def fixtures(self) -> tuple[Body, ...]:
        """The pole."""
        return (body("pole", "cylinder", (0.0, 0.0, 0.9), (0.14, 0.14, 0.9), DARK),)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The ball."""
        angle = self.state(seconds)["angle"]
        x, y = self.RADIUS * angle.cos(), self.RADIUS * angle.sin()
        return (body("body", "sphere", at(x, y, self.HALF), self.HALF, rgb(self.colour)),)
