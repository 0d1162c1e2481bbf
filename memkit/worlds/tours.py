"""Long clips of the rooms world, which depend on their names only: tours in parts, and a look away and back."""

from __future__ import annotations

import random
from dataclasses import dataclass

from memkit.worlds.constants import Split
from memkit.worlds.paths import Path, turn_and_return
from memkit.worlds.rooms import Room, RoomClip

_PEOPLE = "-dynamic"  # at the end of the name of a room with people


@dataclass(frozen=True)
class RoomTour:
    """A tour of a room in parts of equal length. The camera path is the same with people and without.

    Attributes:
        name: name of the room, such as "train-00012" or "test-00003-dynamic".
        parts: number of parts.
        seconds: length of a part in seconds.
    """

    name: str
    parts: int
    seconds: float

    def part(self, index: int) -> RoomClip:
        """The clip of one part."""
        room = Room.named(self.name)
        path = room.tour(random.Random(f"{self.name.removesuffix(_PEOPLE)}/tour"), self.parts * self.seconds)
        return RoomClip(room, path, index * self.seconds, self.seconds)


def look_back(name: str, seconds: float) -> RoomClip:
    """The first ``seconds`` of a turn by 90° to 180° away from the first view of a room, a wait, and the turn back.

    ``path.duration`` of the clip is the length of the whole path (MemLearner, Evaluation).
    """
    rng = random.Random(f"{name.removesuffix(_PEOPLE)}/revisit")
    path = Path(Room.named(name).start)
    path = path.then(*turn_and_return(5.0 * rng.randint(18, 36), rng.choice(("left", "right"))))
    return RoomClip(Room.named(name), path, 0.0, seconds)


def room_names(split: Split, count: int, both: bool = False) -> list[str]:
    """Names of rooms, alternately without and with people; with ``both``, each room without and with people."""
    return [f"{split}-{i // 2 if both else i:05d}" + _PEOPLE * (i % 2) for i in range(count)]


def has_people(name: str) -> bool:
    """Whether there are people in the room of that name."""
    return name.endswith(_PEOPLE)
