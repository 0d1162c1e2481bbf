"""The `rooms` world: a camera walks through two joined rooms with pillars, furniture, and people who move.

A room is a function of its name: ``Room.named("train-00012")`` is the same room everywhere, and
``"train-00012-dynamic"`` is its twin with people. Nothing stands within reach of the lines between stations, and paths
keep to these lines. Metres, with the floor at z=0 and a corner of the room at the origin.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.worlds.constants import COLOURS, SPLITS, Split
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES, times, to_uint8
from memkit.worlds.paths import Number, Path, Pose, Segment, Wait, and_back, approach, turn_and_return
from memkit.worlds.render import render
from memkit.worlds.scene import Body, Scene, body

WALLS: dict[str, tuple[float, float, float]] = {  # no face of a wall reflects more than 0.7 of it
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
_SKY, _PILLAR, _PEDESTAL = (0.72, 0.84, 0.95), (0.93, 0.92, 0.88), (0.80, 0.79, 0.76)
_WALL_HEIGHT, _OUTER, _INNER = 2.6, 0.1, 0.08  # height, half thicknesses
_KEEP, _KEEP_MOVING = 0.5, 0.65  # metres between the camera's lines and what stands, what moves
_WORDS = 26  # of a caption at most
_WALL_PIXELS, _BODY_PIXELS = 100, 12  # of 5 views of 32 × 32, to be named
_PILLARS = ("", "a pillar", "two pillars", "three pillars")


@dataclass(frozen=True)
class Patrol:
    """A person who walks to and fro between ``a`` and ``b``, ``offset`` metres along at t=0."""

    kind: ClassVar[str] = "patrol"
    law: ClassVar[str] = "s = d - |(offset + v t) mod 2d - d|, (x, y) = a + (b - a) s / d"
    verb: ClassVar[str] = "walks"
    colour: str
    height: float
    a: tuple[float, float]
    b: tuple[float, float]
    speed: float
    offset: float

    @property
    def name(self) -> str:
        return f"person in {self.colour}"

    @property
    def words(self) -> str:
        return f"a {self.name} {self.verb}"

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """``s``, metres from ``a``, ``x`` and ``y`` at each time."""
        length = math.dist(self.a, self.b)
        s = length - ((self.offset + self.speed * seconds.double()) % (2 * length) - length).abs()
        x, y = (a + (b - a) * s / length for a, b in zip(self.a, self.b, strict=True))
        return {"s": s, "x": x, "y": y}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        return _person(self.colour, self.height, self.state(seconds))


@dataclass(frozen=True)
class Circle:
    """A person who walks round ``centre``, anticlockwise from above where ``speed`` is positive."""

    kind: ClassVar[str] = "circle"
    law: ClassVar[str] = "angle = start + v t / r, (x, y) = centre + r (cos angle, sin angle)"
    verb: ClassVar[str] = "circles"
    colour: str
    height: float
    centre: tuple[float, float]
    radius: float
    speed: float
    start: float

    @property
    def name(self) -> str:
        return f"person in {self.colour}"

    @property
    def words(self) -> str:
        return f"a {self.name} {self.verb}"

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """``angle`` in radians, ``x`` and ``y`` at each time."""
        angle = self.start + self.speed / self.radius * seconds.double()
        x, y = self.centre
        return {"angle": angle, "x": x + self.radius * angle.cos(), "y": y + self.radius * angle.sin()}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        return _person(self.colour, self.height, self.state(seconds))


@dataclass(frozen=True)
class Floating:
    """A ball that floats up and down."""

    kind: ClassVar[str] = "floating"
    law: ClassVar[str] = "z = middle + reach sin(2 pi t / period + phase)"
    verb: ClassVar[str] = "floats"
    colour: str
    x: float
    y: float
    radius: float
    middle: float
    reach: float
    period: float
    phase: float

    @property
    def name(self) -> str:
        return f"{self.colour} ball"

    @property
    def words(self) -> str:
        return f"{_a(self.name)} {self.verb}"

    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """``z`` of the centre at each time; ``x`` and ``y``, which do not change."""
        z = self.middle + self.reach * (2 * math.pi * seconds.double() / self.period + self.phase).sin()
        return {"z": z, "x": torch.full_like(z, self.x), "y": torch.full_like(z, self.y)}

    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        state = self.state(seconds)
        centre = torch.stack([state["x"], state["y"], state["z"]], dim=-1)
        return (body(self.name, "sphere", centre, self.radius, COLOURS[self.colour]),)


Mover = Patrol | Circle | Floating


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
        return _a(self.name)

    def bodies(self) -> tuple[Body, ...]:
        centre, half = (self.x, self.y, self.height / 2), (self.width, self.depth, self.height / 2)
        if self.kind != "ball":
            return (body(self.name, "box", centre, half, COLOURS[self.colour]),)
        ball = body(self.name, "sphere", (self.x, self.y, self.height + self.width), self.width, COLOURS[self.colour])
        return body(f"pedestal of {self.name}", "box", centre, half, _PEDESTAL), ball


@dataclass(frozen=True)
class Room:
    """Two rooms joined by a door in the wall at x = ``wall_x``.

    ``stations`` are four points of a camera's way, the first two on one side of the door and the others beyond it.
    """

    name: str
    length: float  # along x
    width: float  # along y
    wall_x: float
    door_y: float
    door_width: float
    walls: tuple[str, ...]  # colours of west, east, south, north, inner
    floor: tuple[float, float, float]
    checker: float
    stations: tuple[tuple[float, float], ...]
    yaw: float
    pillars: tuple[Pillar, ...]
    furniture: tuple[Piece, ...]
    movers: tuple[Mover, ...] = ()

    @staticmethod
    def named(name: str) -> Room:
        """The room of a name: a split, five digits, and "-dynamic" for the twin with people."""
        match = re.fullmatch(rf"((?:{'|'.join(SPLITS)})-\d{{5}})(-dynamic)?", name)
        if match is None:
            raise InputError(f'No room {name!r}; names are like "train-00012" or "test-00003-dynamic".')
        return _Plan.first_that_fits(match[1]).room(name, moving=match[2] is not None)

    @property
    def start(self) -> Pose:
        """The first view of every tour."""
        return (*self.stations[0], self.yaw)

    @property
    def door_points(self) -> tuple[tuple[float, float], ...]:
        """Points of the way from the first view through the door."""
        return self.stations[1:3]

    def wall_colour(self, wall: str) -> str:
        """The colour word of a wall's body, such as "west wall" or "inner wall south"."""
        return self.walls[("west", "east", "south", "north", "inner").index(wall.split()[0])]

    def scene(self, seconds: Float[Tensor, " frames"]) -> Scene:
        """What stands and moves in the room at each time."""
        parts = [
            (body("floor", "plane", (0.0, 0.0, 0.0), 1.0, self.floor, checker=self.checker),),
            self._walls(),
            *(pillar.bodies(i) for i, pillar in enumerate(self.pillars, 1)),
            *(piece.bodies() for piece in self.furniture),
            *(mover.bodies(seconds) for mover in self.movers),
        ]
        return Scene(tuple(b for part in parts for b in part), sky=_SKY)

    def _walls(self) -> tuple[Body, ...]:
        x, y, t, top = self.length / 2, self.width / 2, _OUTER, _WALL_HEIGHT / 2
        west, east, south, north, inner = (WALLS[name] for name in self.walls)
        low, high = self.door_y - self.door_width / 2, self.door_y + self.door_width / 2
        rest = self.width - high
        return (
            body("west wall", "box", (-t, y, top), (t, y + 2 * t, top), west),
            body("east wall", "box", (2 * x + t, y, top), (t, y + 2 * t, top), east),
            body("south wall", "box", (x, -t, top), (x, t, top), south),
            body("north wall", "box", (x, 2 * y + t, top), (x, t, top), north),
            body("inner wall south", "box", (self.wall_x, low / 2, top), (_INNER, low / 2, top), inner),
            body("inner wall north", "box", (self.wall_x, high + rest / 2, top), (_INNER, rest / 2, top), inner),
        )

    def tour(self, rng: random.Random, seconds: Number) -> Path:
        """A random path of at least ``seconds``: looks around, walks and visits through the door, one after another.

        Each part begins and ends in the first view. Turns back mirror the turns away about a whole multiple of 1/16 s:
        at 8 frames a second, the same views come back.
        """
        path = Path(self.start)
        while path.duration < seconds:
            path = path.then(*self._outing(rng))
            path = path.then(Wait(0.5 + _to_frame(path.segments)))
        return path

    def _outing(self, rng: random.Random) -> tuple[Segment, ...]:
        far = rng.choice((0, 0, 1, 2, 3, 3))
        look = turn_and_return(5.0 * rng.randint(18, 36), rng.choice(("left", "right")), 0.25 * rng.randint(1, 6))
        if far == 0:
            return look
        there = approach(self.start, self.stations[1 : far + 1])
        return and_back(there, (Wait(_to_frame(there)), *look))


@dataclass(frozen=True)
class RoomClip:
    """A window of a path through a room. Frame i is at ``start_seconds + i / fps``, of the path and of the room.

    ``seconds`` is the length that the caption speaks of: of 17 frames at 8 fps, by default.
    """

    room: Room
    path: Path
    start_seconds: Number
    seconds: Number = (NUM_FRAMES - 1) / FPS

    @property
    def source(self) -> str:
        """Name of the room."""
        return self.room.name

    def times(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Float[Tensor, "{frames}"]:
        """Seconds of each frame, float64."""
        return times(frames, fps, float(self.start_seconds))

    def scene(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Scene:
        """The room at each frame."""
        return self.room.scene(self.times(frames, fps))

    def cameras(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Cameras:
        """The camera of each frame [frames], float64."""
        return self.path.cameras(self.times(frames, fps))

    def video(
        self, frames: int = NUM_FRAMES, fps: float = FPS, size: int = IMAGE_SIZE
    ) -> UInt8[Tensor, "{frames} {size} {size} 3"]:
        """The rendered clip, frames first, channels last."""
        return to_uint8(render(self.scene(frames, fps), self.cameras(frames, fps), size, size).rgb)

    @property
    def caption(self) -> str:
        """What a user would write: the camera's motion, and the walls, things and events in view. At most 26 words."""
        return " ".join(words for words, _ in self.caption_parts())

    def caption_parts(self) -> tuple[tuple[str, bool], ...]:
        """Pieces of the caption, joined by spaces, and whether each may be left out (all that tells what is seen)."""
        room, seen = self.room, self._seen
        walls = dict.fromkeys(room.wall_colour(name) for name in seen if "wall" in name)
        pillars = sum(name.startswith("pillar") for name in seen)
        things = [piece.words for piece in room.furniture if piece.name in seen]
        things += [_PILLARS[pillars]] if pillars else []
        events = [mover.words for mover in room.movers if mover.name in seen]
        while True:
            parts = [(self._motion_words(), False), (f"of {_listed(list(walls)[:4])} walls", True)]
            parts += [(f"with {_listed(things)}", True)] if things else []
            parts += [(f"where {_listed(events)}", True)] if events else []
            if sum(len(words.split()) for words, _ in parts) <= _WORDS:
                return tuple(parts)
            things, events = things[:-1], events if things else events[:-1]

    @cached_property
    def _seen(self) -> list[str]:
        """Names of bodies in view at a few times of the clip, the largest first."""
        size, looks = 32, 5
        seconds = self.start_seconds + torch.linspace(0, self.seconds, looks, dtype=torch.float64)
        scene = self.room.scene(seconds)
        ids = render(scene, self.path.cameras(seconds), size, size, antialias=False).ids
        pixels = torch.bincount(ids[ids >= 0], minlength=len(scene.bodies))
        least = {b.name: (_WALL_PIXELS if "wall" in b.name else _BODY_PIXELS) for b in scene.bodies}
        found = [(-n, b.name) for b, n in zip(scene.bodies, pixels.tolist(), strict=True) if n >= least[b.name]]
        return [name for _, name in sorted(found)]

    def motion_shares(self) -> dict[str, float]:
        """The share of the clip that each of the camera's motions takes, in the order in which they begin."""
        steps = 64
        middles = (torch.arange(steps, dtype=torch.float64) + 0.5) * (self.seconds / steps) + self.start_seconds
        motions = self.path.motion(middles)
        return {motion: motions.count(motion) / steps for motion in dict.fromkeys(motions)}

    def _motion_words(self) -> str:
        verbs = {"walks forward": "walking", "stands": "standing"}
        shares = self.motion_shares()
        kept = sorted(shares, key=lambda motion: -shares[motion])[:2]
        said = [verbs.get(m, m.replace("turns", "turning")) for m in shares if m in kept and shares[m] >= 0.2]
        return f"{', then '.join(said)} {'through' if said[-1] == 'walking' else 'in'} a room"


def sample_room(rng: random.Random, split: Split = "train", dynamic: bool = False) -> Room:
    """Draw a room of a split, with people if ``dynamic``."""
    return Room.named(f"{split}-{rng.randrange(100_000):05d}" + "-dynamic" * dynamic)


def sample_clip(
    rng: random.Random, split: Split = "train", frames: int = NUM_FRAMES, fps: float = FPS, dynamic: bool | None = None
) -> RoomClip:
    """Draw a window of a tour: a third mostly turns, a third mostly walks, a third is mixed or stands.

    ``dynamic`` chooses rooms with people or without; None draws either, three to one: people are often out of view.
    """
    room = sample_room(rng, split, rng.random() < 0.75 if dynamic is None else dynamic)
    seconds = (frames - 1) / fps
    path = room.tour(rng, 60.0 + seconds)
    wanted = rng.choice(("turns", "walks", "mixed"))
    for _ in range(200):
        clip = RoomClip(room, path, rng.randrange(int((path.duration - seconds) * FPS) + 1) / FPS, seconds)
        shares = clip.motion_shares()
        mostly = [
            verb for verb in ("turns", "walks") if sum(n for m, n in shares.items() if m.startswith(verb)) >= 0.75
        ]
        if wanted == (mostly[0] if mostly else "mixed"):
            break
    return clip


def _to_frame(segments: Sequence[Segment]) -> float:
    """Seconds from the end of segments to the next whole multiple of 1/8 s."""
    end = sum(segment.seconds for segment in segments)
    return max(0.0, math.ceil(end * FPS - 1e-6) / FPS - end)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


_PERSON_RADIUS, _HEAD_RADIUS = 0.22, 0.15


def _person(colour: str, height: float, state: dict[str, Tensor]) -> tuple[Body, ...]:
    """A cylinder with a sphere on top."""
    trunk = height - 2 * _HEAD_RADIUS
    half = (_PERSON_RADIUS, _PERSON_RADIUS, trunk / 2)
    x, y = state["x"], state["y"]

    def at(z: float) -> Tensor:
        return torch.stack([x, y, torch.full_like(x, z)], dim=-1)

    return (
        body(f"person in {colour}", "cylinder", at(trunk / 2), half, COLOURS[colour]),
        body(f"head of person in {colour}", "sphere", at(trunk + _HEAD_RADIUS), _HEAD_RADIUS, COLOURS[colour]),
    )


class _NoSpace(Exception):
    """This draw of a room has no place left."""


@dataclass
class _Plan:
    """A room being laid out; ``discs`` (x, y, radius) is the floor that is taken."""

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
    def first_that_fits(name: str) -> _Plan:
        """Draw until everything has found its place; a room in a few draws does."""
        attempt = 0
        while True:
            rng = random.Random(f"{name}/{attempt}")
            length, width = rng.uniform(8, 11), rng.uniform(6, 8)
            plan = _Plan(rng, length, width, length * rng.uniform(0.42, 0.58), rng.uniform(1.8, width - 1.8))
            try:
                plan.fill()
                return plan
            except _NoSpace:
                attempt += 1

    def fill(self) -> None:
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

    def room(self, name: str, moving: bool) -> Room:
        """Colours and views do not depend on whether people move."""
        rng = random.Random(f"{name[: name.index('-') + 6]}/colours")
        (x, y), (to_x, to_y) = self.stations[:2]
        return Room(
            name=name,
            length=self.length,
            width=self.width,
            wall_x=self.wall_x,
            door_y=self.door_y,
            door_width=rng.uniform(1.2, 1.6),
            walls=tuple(rng.sample(sorted(WALLS), 5)),
            floor=rng.choice(FLOORS),
            checker=rng.choice((0.0, 0.0, 0.0, 1.5, 2.0)),
            stations=tuple(self.stations),
            yaw=math.atan2(to_y - y, to_x - x) + rng.uniform(-1, 1),
            pillars=tuple(self.pillars),
            furniture=tuple(self.furniture),
            movers=tuple(self.movers) if moving else (),
        )

    def _spots(self, east: bool) -> Iterator[tuple[float, float]]:
        """Random points of a side."""
        low, high = (self.wall_x + _INNER, self.length) if east else (0.0, self.wall_x - _INNER)
        for _ in range(60):
            yield self.rng.uniform(low, high), self.rng.uniform(0.0, self.width)
        raise _NoSpace

    def _free(self, x: float, y: float, radius: float, keep: float = _KEEP) -> bool:
        """Whether a disc lies inside one side, clear of what stands there and ``keep`` from the camera's lines."""
        inside = min(x, self.length - x, y, self.width - y) > radius + 0.06
        clear = all(math.dist((x, y), (ox, oy)) > radius + other + 0.15 for ox, oy, other in self.discs)
        lines = zip(self.stations, self.stations[1:], strict=False)
        away = all(_distance((x, y), a, b) > radius + keep for a, b in lines)
        return inside and clear and away and abs(x - self.wall_x) > radius + _INNER + 0.06

    def _mover(self, kind: str, east: bool, colour: str) -> None:
        rng = self.rng
        height, speed = rng.uniform(1.6, 1.8), rng.uniform(0.5, 1.1)
        for x, y in self._spots(east):
            if kind == "patrol":
                angle, length = rng.uniform(0, math.pi), rng.uniform(1.6, 3.2)
                to = (x + length * math.cos(angle), y + length * math.sin(angle))
                way = [(x + (to[0] - x) * i / 16, y + (to[1] - y) * i / 16, _PERSON_RADIUS) for i in range(17)]
                mover: Mover = Patrol(colour, height, (x, y), to, speed, rng.uniform(0, 2 * length))
                between = (to[0] > self.wall_x) == east
            elif kind == "circle":
                pillar = Pillar(x, y, rng.uniform(0.24, 0.32))
                radius = pillar.radius + _PERSON_RADIUS + rng.uniform(0.15, 0.4)
                way, between = [(x, y, radius + _PERSON_RADIUS)], True
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
        """Before someone's way as seen from a station where that fits, else anywhere."""
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
        """Place a piece; returns whether it is a ball, which is two bodies."""
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
    """Of a point from the line from a to b."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    share = ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / (dx * dx + dy * dy)
    share = min(max(share, 0.0), 1.0)
    return math.dist(point, (a[0] + share * dx, a[1] + share * dy))
