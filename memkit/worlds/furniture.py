"""Walls, pillars and furniture of a room, as bodies. Metres, with the floor at z=0."""

from __future__ import annotations

from typing import NamedTuple

from memkit.worlds.constants import COLOURS
from memkit.worlds.people import with_article
from memkit.worlds.scene import Body, body

WALLS: dict[str, tuple[float, float, float]] = {  # no face of a wall reflects more than 0.7 of its colour
    "grey": (0.80, 0.80, 0.82),
    "beige": (1.00, 0.90, 0.68),
    "teal": (0.22, 0.76, 0.74),
    "brick": (0.96, 0.42, 0.32),
    "navy": (0.32, 0.44, 0.86),
    "olive": (0.70, 0.72, 0.28),
    "plum": (0.74, 0.38, 0.68),
    "mint": (0.66, 1.00, 0.76),
    "rose": (1.00, 0.72, 0.76),
}
FLOORS = ((0.58, 0.44, 0.30), (0.40, 0.43, 0.48), (0.76, 0.70, 0.58), (0.50, 0.50, 0.50))
_PILLAR, _PEDESTAL = (0.93, 0.92, 0.88), (0.80, 0.79, 0.76)
_WALL_HEIGHT, _OUTER, INNER = 2.6, 0.1, 0.08  # height, half thicknesses


class Pillar(NamedTuple):
    """As high as the walls."""

    x: float
    y: float
    radius: float

    def bodies(self, number: int) -> tuple[Body, ...]:
        half, top = (self.radius, self.radius, _WALL_HEIGHT / 2), _WALL_HEIGHT / 2
        return (body(f"pillar {number}", "cylinder", (self.x, self.y, top), half, _PILLAR),)


class Piece(NamedTuple):
    """Furniture: a "box", a "cabinet", or a "ball" on a pedestal. ``width`` and ``depth`` are half extents."""

    kind: str
    colour: str
    x: float
    y: float
    width: float
    depth: float
    height: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def words(self) -> str:
        return with_article(self.name)

    def bodies(self) -> tuple[Body, ...]:
        centre, half = (self.x, self.y, self.height / 2), (self.width, self.depth, self.height / 2)
        if self.kind != "ball":
            return (body(self.name, "box", centre, half, COLOURS[self.colour]),)
        ball = body(self.name, "sphere", (self.x, self.y, self.height + self.width), self.width, COLOURS[self.colour])
        return body(f"pedestal of {self.name}", "box", centre, half, _PEDESTAL), ball


def walls(
    colours: tuple[str, ...], length: float, width: float, wall_x: float, door: tuple[float, float]
) -> tuple[Body, ...]:
    """Four outer walls and the two parts of the inner one, with a door from y = ``door[0]`` to ``door[1]``.

    ``colours`` are the colour names of the west, east, south, north and inner wall.
    """
    x, y, t, top = length / 2, width / 2, _OUTER, _WALL_HEIGHT / 2
    west, east, south, north, inner = (WALLS[name] for name in colours)
    low, high = door
    rest = width - high
    return (
        body("west wall", "box", (-t, y, top), (t, y + 2 * t, top), west),
        body("east wall", "box", (2 * x + t, y, top), (t, y + 2 * t, top), east),
        body("south wall", "box", (x, -t, top), (x, t, top), south),
        body("north wall", "box", (x, 2 * y + t, top), (x, t, top), north),
        body("inner wall south", "box", (wall_x, low / 2, top), (INNER, low / 2, top), inner),
        body("inner wall north", "box", (wall_x, high + rest / 2, top), (INNER, rest / 2, top), inner),
    )
