"""Tanks that fill, drain and change colour."""

from __future__ import annotations

import random
from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.worlds.constants import COLOURS, SUBSTANCES, Split
from memkit.worlds.event import Part, Shows, at, random_look, rgb
from memkit.worlds.processes import DARK, Process, blend
from memkit.worlds.scene import Body, Colour, body


@dataclass(frozen=True)
class Tank(Process, ABC):
    """A tank with an open front, filled to the share ``level`` of its height."""

    units: ClassVar[dict[str, str]] = {"level": "of the tank"}
    shows: ClassVar[Shows] = "top"
    HEIGHT: ClassVar[float] = 2.7
    HALF: ClassVar[tuple[float, float]] = (1.05, 0.5)

    def fixtures(self) -> tuple[Body, ...]:
        """Back and sides."""
        (wide, deep), tall = self.HALF, 0.5 * self.HEIGHT + 0.08
        sides = (
            body(f"side {s}", "box", (self.x + s * (wide + 0.1), 0.0, tall), (0.08, deep, tall), DARK) for s in (-1, 1)
        )
        back = body("back", "box", (self.x, deep + 0.1, tall), (wide + 0.18, 0.08, tall), (0.50, 0.51, 0.54))
        return back, *sides

    def liquid(self, level: Tensor, colour: Tensor | Colour) -> Body:
        """The liquid as a body."""
        tall = 0.5 * self.HEIGHT * level.clamp(min=1e-3)
        return body("body", "box", at(self.x, 0.0, tall), at(self.HALF[0], self.HALF[1], tall), colour)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The liquid."""
        return (self.liquid(self.state(seconds)["level"], rgb(self.colour)),)


@dataclass(frozen=True)
class Fill(Tank):
    """A tap fills the tank."""

    kind: ClassVar[str] = "fill"
    law: ClassVar[str] = "level' = rate, to the brim"
    STARTS: ClassVar[tuple[float, float]] = (0.08, 0.35)
    words: ClassVar[tuple[str, str]] = ("a tank fills with", "{}")

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Level."""
        return {"level": (self.start + self.rate * seconds).clamp(0, 1)}


@dataclass(frozen=True)
class Drain(Tank):
    """The tank drains through a hole in its floor, by Torricelli's law."""

    kind: ClassVar[str] = "drain"
    law: ClassVar[str] = "level' = -1.5 rate sqrt(level)"
    STARTS: ClassVar[tuple[float, float]] = (0.75, 1.0)
    words: ClassVar[tuple[str, str]] = ("a tank drains of", "{}")

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Level."""
        return {"level": (self.start**0.5 - 0.75 * self.rate * seconds).clamp(min=0) ** 2}


@dataclass(frozen=True)
class Dye(Tank):
    """A dye spreads through a full tank."""

    into: str

    kind: ClassVar[str] = "dye"
    law: ClassVar[str] = "share' = 4 rate (1 - share)"
    units: ClassVar[dict[str, str]] = {"share": "of the new colour"}
    shows: ClassVar[Shows] = "blend"
    STARTS: ClassVar[tuple[float, float]] = (0.0, 0.15)
    words: ClassVar[tuple[str, str]] = ("a tank of", "{} turns")

    @classmethod
    def draw(cls, rng: random.Random, split: Split) -> Dye:
        """A random event of this kind."""
        colour, place = random_look(rng)
        substance, into = rng.choice(sorted(SUBSTANCES[split])), rng.choice([c for c in sorted(COLOURS) if c != colour])
        start, x = rng.uniform(*cls.STARTS), rng.uniform(-0.6, 0.6)
        return cls(colour, place, substance, SUBSTANCES[split][substance], start, x, into)

    def parts(self) -> tuple[Part, ...]:
        """ "a tank of red wax turns blue in a lab"."""
        before, colour, body, place = super().parts()
        return before, colour, body, Part(self.into, True), place

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """Share of the new colour."""
        return {"share": 1 - (1 - self.start) * torch.exp(-4 * self.rate * seconds)}

    def ends(self) -> tuple[Colour, Colour]:
        """The colours at share 0 and 1."""
        return rgb(self.colour), rgb(self.into)

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The liquid."""
        share = self.state(seconds)["share"]
        return (self.liquid(torch.full_like(share, 0.85), blend(self.ends(), share)),)
