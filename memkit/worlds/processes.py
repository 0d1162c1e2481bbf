"""Processes that continue while they are hidden, at the rate of a named substance."""

from __future__ import annotations

import random
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import SUBSTANCES, Split
from memkit.worlds.event import Event, Part, Shows, at, random_look, rgb
from memkit.worlds.motion import Number, approach
from memkit.worlds.scene import Body, Colour, body

DARK = (0.28, 0.29, 0.32)


@dataclass(frozen=True)
class Process(Event, ABC):
    """A process of a named substance; ``rate`` is the share of the whole per second."""

    substance: str
    rate: Number
    start: Number
    x: float

    constants: ClassVar[tuple[str, ...]] = ("rate",)
    free: ClassVar[dict[str, tuple[float, float]]] = {"rate": (0.0, 0.4), "start": (0.0, 1.0)}
    STARTS: ClassVar[tuple[float, float]]
    words: ClassVar[tuple[str, str]]
    """The words before the colour and those after it, with {} for the substance."""

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Process:
        """A random event of this kind."""
        colour, place = random_look(rng)
        substance = rng.choice(sorted(SUBSTANCES[split]))
        rate = SUBSTANCES[split][substance]
        return cls(colour, place, substance, rate, rng.uniform(*cls.STARTS), rng.uniform(-0.6, 0.6))

    def parts(self) -> tuple[Part, ...]:
        """ "a tank fills with red wax in a lab"."""
        before, after = self.words
        body = Part(after.format(self.substance), True, self.substance)
        return Part(before, True), Part(self.colour, True), body, Part(self.place)


@dataclass(frozen=True)
class Melt(Process):
    """A block melts into a puddle."""

    kind: ClassVar[str] = "melt"
    law: ClassVar[str] = "height' = -rate"
    units: ClassVar[dict[str, str]] = {"height": "of 2 m"}
    shows: ClassVar[Shows] = "top"
    STARTS: ClassVar[tuple[float, float]] = (0.7, 1.0)
    words: ClassVar[tuple[str, str]] = ("a block of", "{} melts")
    HEIGHT: ClassVar[float] = 2.0

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Height of the block."""
        return {"height": (self.start - self.rate * seconds).clamp(min=0)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """Block and puddle; the puddle's area grows by what the block loses."""
        height = self.state(seconds)["height"]
        tall = 0.5 * self.HEIGHT * height.clamp(min=0.02)
        wide = (0.5 + 1.1 * (1 - height)).sqrt()
        puddle = body("puddle", "cylinder", at(self.x, 0.0, 0.0), at(wide, wide, 0.03), rgb(self.colour))
        return puddle, body("body", "box", at(self.x, 0.0, tall), at(0.62, 0.5, tall), rgb(self.colour))


@dataclass(frozen=True)
class Burn(Process):
    """A candle burns down."""

    kind: ClassVar[str] = "burn"
    law: ClassVar[str] = "height' = -rate, until it goes out"
    units: ClassVar[dict[str, str]] = {"height": "of 2.6 m"}
    shows: ClassVar[Shows] = "top"
    STARTS: ClassVar[tuple[float, float]] = (0.7, 1.0)
    words: ClassVar[tuple[str, str]] = ("a candle of", "{} burns down")
    HEIGHT: ClassVar[float] = 2.6

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Height of the candle."""
        return {"height": (self.start - self.rate * seconds).clamp(min=0.02)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """Flame and candle; the flame goes out at the end."""
        height = self.state(seconds)["height"]
        tall = 0.5 * self.HEIGHT * height
        size = 0.17 * (height * 50 - 1).clamp(1e-3, 1)
        flame = body("flame", "sphere", at(self.x, 0.0, 2 * tall + 0.14), at(size, size, size), (1.0, 0.97, 0.85))
        return flame, body("body", "cylinder", at(self.x, 0.0, tall), at(0.42, 0.42, tall), rgb(self.colour))


@dataclass(frozen=True)
class Grow(Process):
    """A stem grows towards its full height."""

    kind: ClassVar[str] = "grow"
    law: ClassVar[str] = "height' = 3 rate (1 - height)"
    units: ClassVar[dict[str, str]] = {"height": "of 3.2 m"}
    shows: ClassVar[Shows] = "top"
    STARTS: ClassVar[tuple[float, float]] = (0.15, 0.4)
    words: ClassVar[tuple[str, str]] = ("a", "plant fed with {} grows")
    HEIGHT: ClassVar[float] = 3.2

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Height of the stem."""
        return {"height": 1 - (1 - self.start) * torch.exp(-3 * self.rate * seconds)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The stem."""
        tall = 0.5 * self.HEIGHT * self.state(seconds)["height"]
        return (body("body", "cylinder", at(self.x, 0.0, tall), at(0.3, 0.3, tall), rgb(self.colour)),)


@dataclass(frozen=True)
class Inflate(Process):
    """A ball is inflated."""

    kind: ClassVar[str] = "inflate"
    law: ClassVar[str] = "radius' = 1.2 m rate, up to 1.4 m"
    units: ClassVar[dict[str, str]] = {"radius": "m"}
    shows: ClassVar[Shows] = "radius"
    STARTS: ClassVar[tuple[float, float]] = (0.3, 0.5)
    words: ClassVar[tuple[str, str]] = ("a", "ball is blown up with {}")

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Radius of the ball."""
        return {"radius": (self.start + 1.2 * self.rate * seconds).clamp(max=1.4)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The ball, resting on the floor."""
        radius = self.state(seconds)["radius"]
        return (body("body", "sphere", at(self.x, 0.0, radius), at(radius, radius, radius), rgb(self.colour)),)


@dataclass(frozen=True)
class Rise(Process):
    """A balloon filled with a substance rises at a terminal speed."""

    kind: ClassVar[str] = "rise"
    law: ClassVar[str] = "z'' = (9 m rate - z') / 0.3 s"
    units: ClassVar[dict[str, str]] = {"z": "m"}
    shows: ClassVar[Shows] = "position"
    free: ClassVar[dict[str, tuple[float, float]]] = {"rate": (0.0, 0.4), "start": (0.0, 2.5)}
    STARTS: ClassVar[tuple[float, float]] = (0.45, 0.9)
    words: ClassVar[tuple[str, str]] = ("a", "balloon with {} rises")

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Height of its centre."""
        return {"z": self.start + approach(seconds, 9 * self.rate, 0.3)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The balloon."""
        return (body("body", "sphere", at(self.x, 0.0, self.state(seconds)["z"]), 0.42, rgb(self.colour)),)


@dataclass(frozen=True)
class Cool(Process):
    """A glowing block cools to grey."""

    kind: ClassVar[str] = "cool"
    law: ClassVar[str] = "heat' = -3 rate heat"
    units: ClassVar[dict[str, str]] = {"heat": "of the glow's colour"}
    shows: ClassVar[Shows] = "blend"
    STARTS: ClassVar[tuple[float, float]] = (0.85, 1.0)
    words: ClassVar[tuple[str, str]] = ("a glowing", "block of {} cools")

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Heat."""
        return {"heat": self.start * torch.exp(-3 * self.rate * seconds)}

    def ends(self) -> tuple[Colour, Colour]:
        """The colours at heat 0 and 1."""
        return DARK, rgb(self.colour)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The block."""
        colour = blend(self.ends(), self.state(seconds)["heat"])
        return (body("body", "box", (self.x, 0.0, 0.75), (0.75, 0.55, 0.75), colour),)


def blend(ends: tuple[Colour, Colour], share: Tensor) -> Float[Tensor, "frames 3"]:
    """Mixtures of two colours."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in ends)
    return low + (high - low) * share.reshape(-1, 1)
