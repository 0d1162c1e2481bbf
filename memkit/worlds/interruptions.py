"""The `interruptions` suite: a process that continues while a board, darkness, a camera turn or a cut hides it.

Each clip has a twin without the interruption, which shows what should be visible afterwards.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.video.pixels import to_uint8
from memkit.worlds.constants import Split
from memkit.worlds.event import FPS, IMAGE_SIZE, Event, Part, at, camera, caption_of, times
from memkit.worlds.mechanisms import Clock, Orbit, Traverse
from memkit.worlds.processes import Burn, Cool, Grow, Inflate, Melt
from memkit.worlds.render import Render, render
from memkit.worlds.scene import Scene, body, rotation_about
from memkit.worlds.tanks import Drain, Dye, Fill

By = Literal["occluder", "lights-off", "look-away", "camera-off"]
CaptionsOf = Literal["process", "scene"]
"""What captions name: the process and its substance, or only what stands there."""
KINDS: tuple[By, ...] = get_args(By)
PROCESSES: tuple[type[Event], ...] = (Fill, Drain, Melt, Burn, Grow, Inflate, Cool, Dye, Clock, Traverse, Orbit)
NUM_FRAMES = 49
_THINGS: dict[type[Event], tuple[str, str]] = {  # before and after the colour; a state or a process is in none of them
    **dict.fromkeys((Fill, Drain, Dye), ("a tank of", "liquid")),
    **dict.fromkeys((Melt, Cool), ("a", "block")),
    Burn: ("a", "candle"),
    Grow: ("a", "plant"),
    Inflate: ("a", "ball"),
    Clock: ("a dial with a", "hand"),
    Traverse: ("a", "block on a rail"),
    Orbit: ("a", "ball and a pole"),
}
_WORDS: dict[By, str] = {
    "occluder": "while a board slides past",
    "lights-off": "while the light goes out and on again",
    "look-away": "while the camera looks away and back",
    "camera-off": "while the camera is off for a moment",
}
_DIM = 0.04  # share of the light that is left when it is off
_AWAY = 1.4  # angle by which the camera turns, in radians
_BOARD = (0.46, 0.36, 0.27)
_ASIDE = 9.5  # metres to the side at which neither the board nor its shadow is in view


@dataclass(frozen=True)
class Interruption:
    """An interruption from ``start`` to ``stop`` seconds, with ramps of ``ramp`` seconds (a cut has none)."""

    by: By
    start: float
    stop: float
    ramp: float = 0.5

    def amount(self, seconds: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
        """0 before and after, 1 in the hold, smoothstep between."""
        if self.by == "camera-off":
            return ((seconds >= self.start) & (seconds < self.stop)).to(seconds)
        step = torch.minimum(seconds - self.start, self.stop - seconds).div(self.ramp).clamp(0, 1)
        return step * step * (3 - 2 * step)

    def hidden(self, seconds: Float[Tensor, " frames"]) -> Bool[Tensor, " frames"]:
        """Frames in which the process is fully hidden."""
        return self.amount(seconds) >= 1.0

    def recovered(self, seconds: Float[Tensor, " frames"]) -> Bool[Tensor, " frames"]:
        """Frames after the interruption, with the original view."""
        return seconds >= self.stop


@dataclass(frozen=True)
class Interrupted:
    """A process and its interruption."""

    event: Event
    by: Interruption

    @property
    def caption(self) -> str:
        """The caption of the whole clip."""
        return caption_of(self.parts())

    def parts(
        self, start: float = 0.0, stop: float = float("inf"), captions: CaptionsOf = "process"
    ) -> tuple[Part, ...]:
        """The parts of the caption of what is visible from ``start`` to ``stop`` seconds.

        With "scene" the caption tells neither which process goes on nor how fast: whoever continues the clip has to
        have seen it. The interruption is named in both.
        """
        shown = self.event.parts() if captions == "process" else scene_parts(self.event)
        seen = self.by.start < stop and self.by.stop > start
        return (*shown, Part(_WORDS[self.by.by], True)) if seen else shown

    def scene(self, seconds: Float[Tensor, " frames"]) -> Scene:
        """The scene at each time."""
        scene, amount = self.event.scene(seconds), self.by.amount(seconds)
        if self.by.by == "occluder":
            side = torch.where(seconds < 0.5 * (self.by.start + self.by.stop), -1.0, 1.0)
            board = body("board", "box", at(_ASIDE * side * (1 - amount), -1.7, 2.1), (2.3, 0.05, 2.1), _BOARD)
            return Scene((*scene.bodies, board), scene.sky)
        if self.by.by == "lights-off":
            return Scene(scene.bodies, scene.sky, 1 - (1 - _DIM) * amount)
        return Scene(scene.bodies, scene.sky, 1 - amount) if self.by.by == "camera-off" else scene

    def cameras(self, seconds: Float[Tensor, " frames"]) -> Cameras:
        """The camera at each time: fixed, or turned to the right about its own position."""
        still = camera()
        c2w = still.c2w.repeat(len(seconds), 1, 1)
        if self.by.by == "look-away":
            c2w[:, :3, :3] = rotation_about(-_AWAY * self.by.amount(seconds), "z") @ c2w[:, :3, :3]
        return Cameras(c2w, still.intrinsics.expand(len(seconds), 4))

    def frames(self, seconds: Float[Tensor, " frames"], size: int = IMAGE_SIZE) -> Render:
        """Colour, depth and ids at each time."""
        return render(self.scene(seconds), self.cameras(seconds), size, size)

    def video(
        self, num_frames: int = NUM_FRAMES, fps: float = FPS, size: int = IMAGE_SIZE, start: float = 0.0
    ) -> UInt8[Tensor, "{num_frames} {size} {size} 3"]:
        """The rendered clip from ``start`` seconds on, frames first, channels last."""
        return to_uint8(self.frames(times(num_frames, fps, start), size).rgb)

    def twin(
        self, num_frames: int = NUM_FRAMES, fps: float = FPS, size: int = IMAGE_SIZE, start: float = 0.0
    ) -> UInt8[Tensor, "{num_frames} {size} {size} 3"]:
        """The same process without the interruption: the ground truth."""
        return self.event.video(num_frames, fps, size, start)


def scene_parts(event: Event) -> tuple[Part, ...]:
    """The parts of a caption that names only what stands there: "a tank of red liquid in a lab", whether it fills or
    drains. ``event`` is one of the `PROCESSES`."""
    before, after = _THINGS[type(event)]
    return Part(before, True), Part(event.colour, True), Part(after, True), Part(event.place)


def sample_interruption(rng: random.Random, split: Split = "train", by: By | None = None) -> Interrupted:
    """Draw a clip of six seconds: visible for 1.5 to 2 s, hidden for 1 to 2 s of the following, then visible again."""
    event = rng.choice(PROCESSES).draw(rng, split)
    start = rng.uniform(1.5, 2.0)
    return Interrupted(event, Interruption(by or rng.choice(KINDS), start, start + 1.0 + rng.uniform(1.0, 2.0)))
