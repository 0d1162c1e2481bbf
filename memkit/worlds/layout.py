"""Random layout of a room: furniture and people do not overlap, nor do they block the paths of the camera."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from memkit.worlds.constants import COLOURS
from memkit.worlds.furniture import INNER, Piece, Pillar
from memkit.worlds.people import PERSON_RADIUS, Circle, Floating, Mover, Patrol

_KEEP, _KEEP_MOVING = 0.5, 0.65  # metres between the camera's lines and static or moving bodies


class _NoSpace(Exception):
    """There is no space left in this draw of a room."""


@dataclass
class Plan:
    """The layout of a room. ``discs`` (x, y, radius) are the occupied parts of the floor."""

    rng: random.Random
    length: float
    width: float
    wall_x: float
    door_y: float
    stations: list[tuple[float, float]] = field(default_factory=list)
    discs: list[tuple[float, float, float]] = field(default_factory=list)
    pillars: list[Pillar] = field(default_factory=list)
    furniture: list[Piece] = field(default_factory=list)
    movers: list[Mover] = field(default_factory=list)

    @staticmethod
    def named(name: str) -> Plan:
        """The plan of a name, drawn until everything fits, which takes a few draws."""
        attempt = 0
        while True:
            rng = random.Random(f"{name}/{attempt}")
            length, width = rng.uniform(8, 11), rng.uniform(6, 8)
            plan = Plan(rng, length, width, length * rng.uniform(0.42, 0.58), rng.uniform(1.8, width - 1.8))
            try:
                plan._fill()
                return plan
            except _NoSpace:
                attempt += 1

    def _fill(self) -> None:
        rng = self.rng
        west = [
            (rng.uniform(1.3, self.wall_x - 2.0), rng.uniform(1.8, self.width - 1.8)),
            (self.wall_x - 1.2, self.door_y),
        ]
        east_x = rng.uniform(self.wall_x + 2.0, self.length - 1.3)
        east = [(self.wall_x + 1.2, self.door_y), (east_x, rng.uniform(1.8, self.width - 1.8))]
        self.stations = west + east
        if rng.random() < 0.5:
            self.stations.reverse()
        home = self.stations[0][0] > self.wall_x
        colours = iter(rng.sample(sorted(COLOURS), len(COLOURS)))
        kinds = [rng.choice(("patrol", "circle")), *rng.choice(((), ("patrol",), ("circle",), ("floating",)))]
        for side, kind in zip((home, not home), kinds, strict=False):
            self._mover(kind, side, next(colours))
        while len(self.pillars) < 1 or (len(self.pillars) < 3 and rng.random() < 0.5):
            self._pillar(rng.choice((home, not home)))
        spare = 16 - 7 - len(self.pillars) - sum(1 if m.kind == "floating" else 2 for m in self.movers)
        sides = [home, not home, rng.random() < 0.5, rng.random() < 0.5]
        pieces = rng.randint(2, min(4, spare))
        spare -= pieces
        for side in sides[:pieces]:
            spare -= self._piece(side, next(colours), may_be_ball=spare > 0)

    def _spots(self, east: bool) -> Iterator[tuple[float, float]]:
        """Random points on one side of the door."""
        low, high = (self.wall_x + INNER, self.length) if east else (0.0, self.wall_x - INNER)
        for _ in range(60):
            yield self.rng.uniform(low, high), self.rng.uniform(0.0, self.width)
        raise _NoSpace

    def _free(self, x: float, y: float, radius: float, keep: float = _KEEP) -> bool:
        """Whether a disc lies on one side of the door, clear of bodies and ``keep`` metres from the camera's lines."""
        inside = min(x, self.length - x, y, self.width - y) > radius + 0.06
        clear = all(math.dist((x, y), (ox, oy)) > radius + other + 0.15 for ox, oy, other in self.discs)
        lines = zip(self.stations, self.stations[1:], strict=False)
        away = all(_distance((x, y), a, b) > radius + keep for a, b in lines)
        return inside and clear and away and abs(x - self.wall_x) > radius + INNER + 0.06

    def _mover(self, kind: str, east: bool, colour: str) -> None:
        rng = self.rng
        height, speed = rng.uniform(1.6, 1.8), rng.uniform(0.5, 1.1)
        for x, y in self._spots(east):
            if kind == "patrol":
                angle, length = rng.uniform(0, math.pi), rng.uniform(1.6, 3.2)
                to = (x + length * math.cos(angle), y + length * math.sin(angle))
                way = [(x + (to[0] - x) * i / 16, y + (to[1] - y) * i / 16, PERSON_RADIUS) for i in range(17)]
                mover: Mover = Patrol(colour, height, (x, y), to, speed, rng.uniform(0, 2 * length))
                between = (to[0] > self.wall_x) == east
            elif kind == "circle":
                pillar = Pillar(x, y, rng.uniform(0.24, 0.32))
                radius = pillar.radius + PERSON_RADIUS + rng.uniform(0.15, 0.4)
                way, between = [(x, y, radius + PERSON_RADIUS)], True
                mover = Circle(colour, height, (x, y), radius, rng.choice((-1, 1)) * speed, rng.uniform(0, 2 * math.pi))
            else:
                ball = rng.uniform(0.25, 0.35)
                way, between = [(x, y, ball)], True
                turns = rng.uniform(2.5, 5.0), rng.uniform(0, 2 * math.pi)
                mover = Floating(colour, x, y, ball, rng.uniform(1.1, 1.5), rng.uniform(0.4, 0.7), *turns)
            if between and all(self._free(*disc, keep=_KEEP_MOVING) for disc in way):
                break
        self.movers.append(mover)
        self.discs += way
        if kind == "circle":
            self.pillars.append(pillar)

    def _pillar(self, east: bool) -> None:
        """Place a pillar, if possible in front of the path of a person as seen from a station."""
        rng = self.rng
        radius = rng.uniform(0.24, 0.32)
        ways = [m for m in self.movers if isinstance(m, Patrol)]
        for i, (x, y) in enumerate(self._spots(east)):
            if ways and i < 30:
                way, share = rng.choice(ways), rng.random()
                seen = [a + (b - a) * share for a, b in zip(way.a, way.b, strict=True)]
                near = min(self.stations, key=lambda s: math.dist(s, seen))
                x, y = (s + (p - s) * rng.uniform(0.4, 0.8) for s, p in zip(near, seen, strict=True))
            if self._free(x, y, radius):
                break
        self.pillars.append(Pillar(x, y, radius))
        self.discs.append((x, y, radius))

    def _piece(self, east: bool, colour: str, may_be_ball: bool) -> bool:
        """Place a piece of furniture; returns whether it is a ball, which consists of two bodies."""
        rng = self.rng
        kind = rng.choice(("box", "cabinet", "ball") if may_be_ball else ("box", "cabinet"))
        if kind == "ball":
            width = depth = rng.uniform(0.25, 0.35)
            height = rng.uniform(0.4, 0.8)
        else:
            width, depth = rng.uniform(0.25, 0.45), rng.uniform(0.25, 0.45)
            height = rng.uniform(0.5, 0.9) if kind == "box" else rng.uniform(1.2, 1.8)
        radius = math.hypot(width, depth)
        x, y = next(spot for spot in self._spots(east) if self._free(*spot, radius))
        self.furniture.append(Piece(kind, colour, x, y, width, depth, height))
        self.discs.append((x, y, radius))
        return kind == "ball"


def _distance(point: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    """Distance of a point from the line segment from a to b."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    share = ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / (dx * dx + dy * dy)
    share = min(max(share, 0.0), 1.0)
    return math.dist(point, (a[0] + share * dx, a[1] + share * dy))
