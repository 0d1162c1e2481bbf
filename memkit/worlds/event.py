"""`Event`: a process with a state in closed form, a scene that shows it, and a caption.

An event is a frozen dataclass. Its physical constants and its start are plain fields, so
``dataclasses.replace(event, gravity=3.0)`` is the same body under another law. A field may be a tensor [N, 1], so that
the state is [N, frames]; fits evaluate thousands of laws at once in this way.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.video.pixels import to_uint8
from memkit.worlds.constants import COLOURS, PLACES, Split
from memkit.worlds.motion import Number
from memkit.worlds.render import Render, render
from memkit.worlds.scene import Body, Scene, body

FPS = 8.0
NUM_FRAMES = 17
IMAGE_SIZE = 64
Shows = Literal["position", "angle", "axis", "ground", "top", "radius", "blend", "pair"]


class Part(NamedTuple):
    """A piece of a caption; whether `vary_caption` must keep it; the name in it that stands for a constant."""

    text: str
    needed: bool = False
    name: str | None = None


def caption_of(parts: Iterable[Part]) -> str:
    """The caption that consists of ``parts``."""
    return " ".join(part.text for part in parts)


@dataclass(frozen=True)
class Event(ABC):
    """One process in front of a fixed camera. Lengths in metres, times in seconds, angles in radians."""

    colour: str
    place: str

    kind: ClassVar[str]
    law: ClassVar[str]
    """The law in one line."""
    units: ClassVar[dict[str, str]]
    """The state's variables and their units."""
    shows: ClassVar[Shows]
    """Which property of the tracked body reveals the state in pixels; see `memkit.metrics.states`."""
    free: ClassVar[dict[str, tuple[float, float]]]
    """Fields that a fit may vary, with their ranges: the constants of the law, then the initial state."""
    constants: ClassVar[tuple[str, ...]]
    """The names in ``free`` that are constants of the law."""

    @classmethod
    @abstractmethod
    def draw(cls, rng: random.Random, split: Split) -> Event:
        """A random event whose named constants belong to the split."""

    @abstractmethod
    def state(self, seconds: Float[Tensor, " frames"]) -> dict[str, Tensor]:
        """The exact state at each time, by variable: [frames], or [N, frames] if fields are tensors [N, 1]."""

    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The parts of the caption."""

    @abstractmethod
    def bodies(self, seconds: Float[Tensor, " frames"]) -> tuple[Body, ...]:
        """The bodies that move or change; the caption is about the one named "body"."""

    def fixtures(self) -> tuple[Body, ...]:
        """The static bodies, without the floor."""
        return ()

    @property
    def caption(self) -> str:
        """A description as a user would write it: names, never numbers."""
        return caption_of(self.parts())

    def scene(self, seconds: Float[Tensor, " frames"]) -> Scene:
        """The scene at each time."""
        return self._scene(self.bodies(seconds))

    def backdrop(self) -> Scene:
        """The scene without moving bodies, one frame."""
        return self._scene(())

    def _scene(self, bodies: tuple[Body, ...]) -> Scene:
        floor, sky = PLACES[self.place]
        ground = body("floor", "plane", (0.0, 0.0, 0.0), 1.0, floor)
        return Scene((ground, *self.fixtures(), *bodies), sky)

    def frames(self, seconds: Float[Tensor, " frames"], size: int = IMAGE_SIZE) -> Render:
        """Colour, depth and ids at each time, from the fixed camera."""
        return render(self.scene(seconds), camera(), size, size)

    def video(
        self, num_frames: int = NUM_FRAMES, fps: float = FPS, size: int = IMAGE_SIZE, start: float = 0.0
    ) -> UInt8[Tensor, "{num_frames} {size} {size} 3"]:
        """The rendered clip from ``start`` seconds on, frames first, channels last."""
        return to_uint8(self.frames(times(num_frames, fps, start), size).rgb)


def camera() -> Cameras:
    """The fixed camera of all events [1]: it sees about 5 by 5 metres of the plane y=0."""
    eye, target = torch.tensor([[0.0, -7.2, 2.1], [0.0, 0.0, 1.75]], dtype=torch.float64)[:, None]
    return Cameras.look_at(eye, target, fov_degrees=38.0)


def times(num_frames: int = NUM_FRAMES, fps: float = FPS, start: float = 0.0) -> Float[Tensor, " num_frames"]:
    """Time of each frame in seconds, float64."""
    return start + torch.arange(num_frames, dtype=torch.float64) / fps


def at(x: Number, y: Number, z: Number) -> Float[Tensor, "frames 3"]:
    """Points from coordinates, each a number or a tensor with one value per frame."""
    values = [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (x, y, z)]
    return torch.stack(torch.broadcast_tensors(*values), dim=-1)


def rgb(colour: str) -> tuple[float, float, float]:
    """The named colour."""
    return COLOURS[colour]


def random_look(rng: random.Random) -> tuple[str, str]:
    """A random colour and place."""
    return rng.choice(sorted(COLOURS)), rng.choice(sorted(PLACES))
