"""The `rooms` world: a camera walks through two joined rooms with pillars, furniture, and people who move.

A room is a function of its name: ``Room.named("train-00012")`` is the same room everywhere, and
``"train-00012-dynamic"`` is its twin with people. Nothing stands near the lines between stations, and paths follow
these lines. Metres, with the floor at z=0 and a corner of the room at the origin.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.errors import InputError
from memkit.video.pixels import to_uint8
from memkit.worlds.constants import SPLITS, Split
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES, Part, caption_of, times
from memkit.worlds.furniture import FLOORS, WALLS, Piece, Pillar, walls
from memkit.worlds.layout import Plan
from memkit.worlds.paths import Path, Pose, Segment, Wait, and_back, approach, turn_and_return
from memkit.worlds.people import Mover
from memkit.worlds.render import render
from memkit.worlds.scene import Scene, body

_SKY = (0.72, 0.84, 0.95)
_WORDS = 26  # most words in a caption
_WALL_PIXELS, _BODY_PIXELS = 100, 12  # least pixels in 5 views of 32 × 32 of a body that is named
_PILLARS = ("", "a pillar", "two pillars", "three pillars")


@dataclass(frozen=True)
class Room:
    """Two rooms joined by a door in the wall at x = ``wall_x``.

    ``stations`` are four points on the camera's path, two on each side of the door.
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
        plan = Plan.named(match[1])
        rng = random.Random(f"{match[1]}/colours")  # colours and views do not depend on whether people move
        (x, y), (to_x, to_y) = plan.stations[:2]
        return Room(
            name=name,
            length=plan.length,
            width=plan.width,
            wall_x=plan.wall_x,
            door_y=plan.door_y,
            door_width=rng.uniform(1.2, 1.6),
            walls=tuple(rng.sample(sorted(WALLS), 5)),
            floor=rng.choice(FLOORS),
            checker=rng.choice((0.0, 0.0, 0.0, 1.5, 2.0)),
            stations=tuple(plan.stations),
            yaw=math.atan2(to_y - y, to_x - x) + rng.uniform(-1, 1),
            pillars=tuple(plan.pillars),
            furniture=tuple(plan.furniture),
            movers=tuple(plan.movers) if match[2] else (),
        )

    @property
    def start(self) -> Pose:
        """The first pose of every tour."""
        return (*self.stations[0], self.yaw)

    @property
    def door_points(self) -> tuple[tuple[float, float], ...]:
        """Points on the path from the first view through the door."""
        return self.stations[1:3]

    def wall_colour(self, wall: str) -> str:
        """The colour name of a wall's body, such as "west wall" or "inner wall south"."""
        return self.walls[("west", "east", "south", "north", "inner").index(wall.split()[0])]

    def scene(self, seconds: Float[Tensor, " frames"]) -> Scene:
        """Static and moving bodies of the room at each time."""
        door = self.door_y - self.door_width / 2, self.door_y + self.door_width / 2
        parts = [
            (body("floor", "plane", (0.0, 0.0, 0.0), 1.0, self.floor, checker=self.checker),),
            walls(self.walls, self.length, self.width, self.wall_x, door),
            *(pillar.bodies(i) for i, pillar in enumerate(self.pillars, 1)),
            *(piece.bodies() for piece in self.furniture),
            *(mover.bodies(seconds) for mover in self.movers),
        ]
        return Scene(tuple(b for part in parts for b in part), sky=_SKY)

    def tour(self, rng: random.Random, seconds: float) -> Path:
        """A random path of at least ``seconds``: a sequence of looks around, walks, and visits through the door.

        Each part begins and ends in the first view. Turns back mirror the turns away about a multiple of 1/16 s, so
        that at 8 frames per second the same views recur.
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
    """A window of a path through a room. Frame i is at ``start_seconds + i / fps``, in the time of both path and room.

    ``seconds`` is the duration that the caption describes, by default that of 17 frames at 8 fps.
    """

    room: Room
    path: Path
    start_seconds: float
    seconds: float = (NUM_FRAMES - 1) / FPS

    @property
    def source(self) -> str:
        """Name of the room."""
        return self.room.name

    def times(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Float[Tensor, " {frames}"]:
        """Time of each frame in seconds, float64."""
        return times(frames, fps, self.start_seconds)

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
        """A description as by a user: camera motion, walls, objects and events in view; at most 26 words."""
        return caption_of(self.parts())

    @property
    def motion(self) -> str:
        """The camera's motion in words: the first part of every caption."""
        verbs = {"walks forward": "walking", "stands": "standing"}
        shares = self.motion_shares()
        kept = sorted(shares, key=lambda motion: -shares[motion])[:2]
        said = [verbs.get(m, m.replace("turns", "turning")) for m in shares if m in kept and shares[m] >= 0.2]
        return f"{', then '.join(said)} {'through' if said[-1] == 'walking' else 'in'} a room"

    def parts(self) -> tuple[Part, ...]:
        """The parts of the caption, of which only the camera's motion is needed."""
        room, seen = self.room, self._seen
        colours = dict.fromkeys(room.wall_colour(name) for name in seen if "wall" in name)
        pillars = sum(name.startswith("pillar") for name in seen)
        things = [piece.words for piece in room.furniture if piece.name in seen]
        things += [_PILLARS[pillars]] if pillars else []
        events = [mover.words for mover in room.movers if mover.name in seen]
        while True:
            parts = [Part(self.motion, True), Part(f"of {_listed(list(colours)[:4])} walls")]
            parts += [Part(f"with {_listed(things)}")] if things else []
            parts += [Part(f"where {_listed(events)}")] if events else []
            if sum(len(part.text.split()) for part in parts) <= _WORDS:
                return tuple(parts)
            things, events = things[:-1], events if things else events[:-1]

    @cached_property
    def _seen(self) -> list[str]:
        """Names of bodies in view at a few times of the clip, largest first."""
        size, looks = 32, 5
        seconds = self.start_seconds + torch.linspace(0, self.seconds, looks, dtype=torch.float64)
        scene = self.room.scene(seconds)
        ids = render(scene, self.path.cameras(seconds), size, size, antialias=False).ids
        pixels = torch.bincount(ids[ids >= 0], minlength=len(scene.bodies))
        least = {b.name: (_WALL_PIXELS if "wall" in b.name else _BODY_PIXELS) for b in scene.bodies}
        found = [(-n, b.name) for b, n in zip(scene.bodies, pixels.tolist(), strict=True) if n >= least[b.name]]
        return [name for _, name in sorted(found)]

    def motion_shares(self) -> dict[str, float]:
        """Share of the clip that each camera motion takes, in the order of their beginnings."""
        steps = 64
        middles = (torch.arange(steps, dtype=torch.float64) + 0.5) * (self.seconds / steps) + self.start_seconds
        motions = self.path.motion(middles)
        return {motion: motions.count(motion) / steps for motion in dict.fromkeys(motions)}


def sample_room(rng: random.Random, split: Split = "train", dynamic: bool = False) -> Room:
    """Draw a room of a split, with people if ``dynamic``."""
    return Room.named(f"{split}-{rng.randrange(100_000):05d}" + "-dynamic" * dynamic)


def sample_clip(
    rng: random.Random, split: Split = "train", frames: int = NUM_FRAMES, fps: float = FPS, dynamic: bool | None = None
) -> RoomClip:
    """Draw a window of a tour: a third mostly turns, a third mostly walks, a third is mixed or stands.

    ``dynamic`` chooses rooms with people or without; None draws either, three to one, as people are often out of view.
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
    """Seconds from the end of segments to the next multiple of 1/8 s."""
    end = sum(segment.seconds for segment in segments)
    return max(0.0, math.ceil(end * FPS - 1e-6) / FPS - end)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]
