"""Camera paths through the gallery, in outings of eight seconds: away from a view and back to it, or all the way round.

An outing is four chunks of 16 frames at 8 frames per second. Panels that leave the view come back in its last chunk.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.video.pixels import to_uint8
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES, times
from memkit.worlds.gallery import GALLERY_FOV, Gallery
from memkit.worlds.paths import Path, Segment, Turn, Wait, Walk
from memkit.worlds.render import render
from memkit.worlds.scene import Scene

OUTING_SECONDS = 8.0
_FASTEST = 60.0  # degrees per second
_PEOPLE = "-dynamic"
_VERBS = {
    "walks forward": "walking",
    "stands": "standing",
    "turns left": "turning left",
    "turns right": "turning right",
}


@dataclass(frozen=True)
class GalleryClip:
    """A window of a path through a gallery. Frame i is at ``start_seconds + i / fps``, in the time of both.

    ``seconds`` is the duration that the caption describes, by default that of 17 frames at 8 fps.
    """

    gallery: Gallery
    path: Path
    start_seconds: float
    seconds: float = (NUM_FRAMES - 1) / FPS

    @property
    def source(self) -> str:
        """Name of the gallery."""
        return self.gallery.name

    def times(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Float[Tensor, " {frames}"]:
        """Time of each frame in seconds, float64."""
        return times(frames, fps, self.start_seconds)

    def scene(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Scene:
        """The gallery at each frame."""
        return self.gallery.scene(self.times(frames, fps))

    def cameras(self, frames: int = NUM_FRAMES, fps: float = FPS) -> Cameras:
        """The camera of each frame [frames], float64."""
        return self.path.cameras(self.times(frames, fps), GALLERY_FOV)

    def video(
        self, frames: int = NUM_FRAMES, fps: float = FPS, size: int = IMAGE_SIZE
    ) -> UInt8[Tensor, "{frames} {size} {size} 3"]:
        """The rendered clip, frames first, channels last."""
        return to_uint8(render(self.scene(frames, fps), self.cameras(frames, fps), size, size).rgb)

    @cached_property
    def motion(self) -> str:
        """The caption: the camera's motion in words. Colours, the figure and its pace are for memory to tell."""
        steps = 64
        middles = (torch.arange(steps, dtype=torch.float64) + 0.5) * (self.seconds / steps) + self.start_seconds
        motions = self.path.motion(middles)
        shares = {motion: motions.count(motion) / steps for motion in dict.fromkeys(motions)}
        kept = sorted(shares, key=lambda motion: -shares[motion])[:2]
        return f"{', then '.join(_VERBS[m] for m in shares if m in kept and shares[m] >= 0.2)} in a gallery"


@dataclass(frozen=True)
class GalleryTour:
    """A tour of a gallery in parts of equal length: one outing of eight seconds after another.

    The camera path is the same with the figure and without.
    """

    name: str
    parts: int
    seconds: float

    def part(self, index: int) -> GalleryClip:
        """The clip of one part."""
        return GalleryClip(Gallery.named(self.name), self._path, index * self.seconds, self.seconds)

    @cached_property
    def _path(self) -> Path:
        rng = random.Random(f"gallery/{self.name.removesuffix(_PEOPLE)}/tour")
        start = rng.uniform(-0.35, 0.35), rng.uniform(-0.35, 0.35), Gallery.named(self.name).yaw
        path = Path(start)
        while path.duration < self.parts * self.seconds - 1e-6:
            stepped = any(isinstance(move, Walk) and move.metres for move in path.segments)
            path = path.then(*outing(rng, may_step=not stepped))  # two steps might lead out of the ring
        return path


def outing(rng: random.Random, may_step: bool = True) -> tuple[Segment, ...]:
    """Eight seconds that begin with a view and end with the same panels.

    Half of the outings turn away by 90° to 180°, wait and turn back. A quarter go all the way round. A quarter also
    take a step before they turn back, so that the panels are seen from another place; without ``may_step`` they do not.
    """
    side, kind = rng.choice((-1, 1)), rng.choice(("back", "back", "round", "step"))
    if kind == "round":
        turn = Turn(side * 360.0, rng.uniform(46.0, _FASTEST))
        return Wait(OUTING_SECONDS - turn.seconds), turn
    degrees = 5.0 * rng.randint(18, 36)
    speed = rng.uniform(max(35.0, degrees / 3.2), _FASTEST)
    step = Walk(rng.uniform(0.5, 0.8) if kind == "step" and may_step else 0.0)
    spare = OUTING_SECONDS - 2 * degrees / speed - step.seconds
    first = spare * rng.uniform(0.0, 0.5)
    return Wait(first), Turn(side * degrees, speed), step, Wait(spare - first), Turn(-side * degrees, speed)
