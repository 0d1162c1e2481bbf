"""The `gallery` world: eight panels of saturated colours around a camera, some behind pillars or a curtain.

A gallery is a function of its name: ``Gallery.named("train-00012")`` is the same gallery everywhere, and
``"train-00012-dynamic"`` is its twin in which a black figure walks around. It is an open pavilion: a wide roof keeps
the sun out and lamps light everything evenly, so that a panel has the same colour from everywhere. All of it is large
enough to be read at 64×64 pixels. Metres and radians, with the middle of the floor at the origin.

No panels of one split occur in another: the ring of colours and shapes decides which split a gallery belongs to.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError
from memkit.worlds.constants import COLOURS, SPLITS, Split
from memkit.worlds.render import AMBIENT
from memkit.worlds.scene import Body, Scene, body, rotation_about

PanelShape = Literal["board", "disc", "diamond"]

Ring = tuple[tuple[str, PanelShape], ...]
"""Colours and shapes of the panels, counter-clockwise."""

PANELS = 8
GALLERY_FOV = 90.0
"""Horizontal field of view in degrees: that of two panels."""
PALETTE = tuple(COLOURS)
PANEL_SHAPES: tuple[PanelShape, ...] = ("board", "disc", "diamond")
DISTANCE = 4.0
"""Distance of the panels from the middle."""
CENTRE_HEIGHT, HALF_WIDTH = 2.0, 1.5
"""Height of a panel's centre, and half of its width."""
FIGURE_HEIGHT, FIGURE_RADIUS, FIGURE_DISTANCE = 2.3, 0.45, 3.35
FIGURE_COLOUR = (0.03, 0.03, 0.03)

_HALVES: dict[PanelShape, tuple[float, float, float]] = {
    "board": (HALF_WIDTH, 1.9, 0.06),
    "disc": (HALF_WIDTH, HALF_WIDTH, 0.06),
    "diamond": (0.78 * HALF_WIDTH, 0.78 * HALF_WIDTH, 0.06),
}
_SKY, _FLOOR, _ROOF = (0.72, 0.84, 0.95), (0.45, 0.43, 0.40), 5.0
_PILLAR, _CURTAIN = (0.95, 0.94, 0.90), (0.62, 0.55, 0.47)
_SPLIT_OF_RESIDUE: tuple[Split, ...] = ("train", "train", "train", "memory", "test")


@dataclass(frozen=True)
class Panel:
    """A panel at ``angle`` from +x, growing to the left; it faces the middle."""

    colour: str
    shape: PanelShape
    angle: float

    @property
    def centre(self) -> tuple[float, float, float]:
        """Its middle."""
        return *_around(self.angle, DISTANCE), CENTRE_HEIGHT

    def body(self, number: int) -> Body:
        """The panel as a thin body, whose axes are those of the panel, turned by 45° for a diamond."""
        axes = _facing(self.angle)
        if self.shape == "diamond":
            axes = axes @ rotation_about(torch.tensor([math.pi / 4], dtype=torch.float64), "z")[0]
        kind = "cylinder" if self.shape == "disc" else "box"
        return body(f"panel {number}", kind, self.centre, _HALVES[self.shape], COLOURS[self.colour], axes)


@dataclass(frozen=True)
class Pillar:
    """A pale pillar from floor to roof."""

    x: float
    y: float
    radius: float

    def body(self, number: int) -> Body:
        half = (self.radius, self.radius, _ROOF / 2)
        return body(f"pillar {number}", "cylinder", (self.x, self.y, _ROOF / 2), half, _PILLAR)


@dataclass(frozen=True)
class Curtain:
    """A curtain in front of the panel at ``angle``, ``distance`` from the middle: from there it hides the panel, from
    some steps aside it does not."""

    angle: float
    distance: float
    half_width: float

    def body(self) -> Body:
        centre = (*_around(self.angle, self.distance), _ROOF / 2)
        return body("curtain", "box", centre, (self.half_width, _ROOF / 2, 0.03), _CURTAIN, _facing(self.angle))


@dataclass(frozen=True)
class Figure:
    """A black figure that walks around the middle in front of the panels, to the left if ``rate`` is positive.

    ``start`` and ``rate`` are in radians and radians per second.
    """

    start: float
    rate: float

    def angle(self, seconds: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
        """Its direction from the middle at each time: angle = start + rate · seconds."""
        return self.start + self.rate * seconds.double()

    def position(self, seconds: Float[Tensor, " frames"]) -> Float[Tensor, "frames 3"]:
        """The middle of the figure at each time."""
        angle = self.angle(seconds)
        x, y = FIGURE_DISTANCE * angle.cos(), FIGURE_DISTANCE * angle.sin()
        return torch.stack([x, y, torch.full_like(x, FIGURE_HEIGHT / 2)], dim=-1)

    def body(self, seconds: Float[Tensor, " frames"]) -> Body:
        half = (FIGURE_RADIUS, FIGURE_RADIUS, FIGURE_HEIGHT / 2)
        return body("figure", "cylinder", self.position(seconds), half, FIGURE_COLOUR)


@dataclass(frozen=True)
class Gallery:
    """Eight panels, up to two pillars, perhaps a curtain, perhaps a figure. ``yaw`` is that of the first view."""

    name: str
    panels: tuple[Panel, ...]
    pillars: tuple[Pillar, ...]
    curtains: tuple[Curtain, ...]
    yaw: float
    figure: Figure | None = None

    @staticmethod
    def named(name: str) -> Gallery:
        """The gallery of a name: a split, five digits, and "-dynamic" for the twin with a figure."""
        match = re.fullmatch(rf"((?:{'|'.join(SPLITS)})-\d{{5}})(-dynamic)?", name)
        if match is None:
            raise InputError(f'No gallery {name!r}; names are like "train-00012" or "test-00003-dynamic".')
        rng = random.Random(f"gallery/{match[1]}")
        split, first = match[1].rsplit("-", 1)[0], rng.uniform(0, 2 * math.pi)
        while True:
            ring: Ring = tuple((rng.choice(PALETTE), rng.choice(PANEL_SHAPES)) for _ in range(PANELS))
            if split_of(ring) == split:
                break
        angles = [first + 2 * math.pi * i / PANELS for i in range(PANELS)]
        yaw = rng.uniform(0, 2 * math.pi)
        pillars = [Pillar(*_around(rng.uniform(0, 2 * math.pi), rng.uniform(2.3, 2.6)), rng.uniform(0.16, 0.24))
                   for _ in range(rng.choice((0, 0, 1, 2)))]  # fmt: skip
        covered = rng.choice((None, None, *rng.sample(angles, 1)))
        curtains = () if covered is None else (Curtain(covered, rng.uniform(2.6, 2.9), rng.uniform(1.05, 1.25)),)
        # close to the first view at first, so that most figures are seen before they are out of view
        figure = Figure(yaw + rng.uniform(-0.7, 0.7), math.radians(rng.uniform(5, 12)) * rng.choice((-1, 1)))
        panels = tuple(Panel(colour, shape, angle) for (colour, shape), angle in zip(ring, angles, strict=True))
        return Gallery(name, panels, tuple(pillars), curtains, yaw, figure if match[2] else None)

    @property
    def ring_hash(self) -> str:
        """SHA-256 of the panels' colours and shapes, wherever the ring begins: equal for equal panels only."""
        return ring_hash(tuple((panel.colour, panel.shape) for panel in self.panels))

    def scene(self, seconds: Float[Tensor, " frames"]) -> Scene:
        """Panels, what hides them, and the figure at each time. The first eight bodies are the panels."""
        parts = [panel.body(i) for i, panel in enumerate(self.panels)]
        parts += [body("floor", "plane", (0.0, 0.0, 0.0), 1.0, _FLOOR)]
        parts += [body("roof", "box", (0.0, 0.0, _ROOF + 1.0), (60.0, 60.0, 1.0), _SKY)]
        parts += [pillar.body(i) for i, pillar in enumerate(self.pillars, 1)]
        parts += [curtain.body() for curtain in self.curtains]
        parts += [self.figure.body(seconds)] if self.figure else []
        lamps = torch.tensor([1 / AMBIENT], dtype=torch.float64)
        return Scene(tuple(parts), tuple(AMBIENT * c for c in _SKY), gain=lamps)  # type: ignore[arg-type]


def ring_hash(ring: Ring) -> str:
    """SHA-256 of a ring of colours and shapes, the same for all of its rotations."""
    turns = ("/".join(f"{c} {s}" for c, s in (*ring[i:], *ring[:i])) for i in range(len(ring)))
    return hashlib.sha256(min(turns).encode()).hexdigest()


def split_of(ring: Ring) -> Split:
    """The split that a ring of colours and shapes belongs to, by its hash."""
    return _SPLIT_OF_RESIDUE[int(ring_hash(ring), 16) % len(_SPLIT_OF_RESIDUE)]


def _around(angle: float, distance: float) -> tuple[float, float]:
    return distance * math.cos(angle), distance * math.sin(angle)


def _facing(angle: float) -> Float[Tensor, "3 3"]:
    """Axes, as columns, of what stands at ``angle`` and faces the middle: to its left, up, and towards the middle."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([(s, 0.0, -c), (-c, 0.0, -s), (0.0, 1.0, 0.0)], dtype=torch.float64)
