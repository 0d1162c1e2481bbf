"""`Walk`: a camera in a gallery that a model generates step by step, with a memory of the way and without."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.app.stop import Report, Switch, watched
from memkit.app.walk_memories import MemoryName, make_memory
from memkit.backbones.wan import WanBackbone
from memkit.cameras.cameras import Cameras
from memkit.checks import MOST_STEPS, check_whole
from memkit.demo.gallery import load_gallery
from memkit.errors import InputError
from memkit.injectors.frame_context.context import FrameContext
from memkit.rollout.rollout import Rollout
from memkit.worlds.event import FPS, NUM_FRAMES
from memkit.worlds.gallery import Gallery
from memkit.worlds.gallery_scores import ChunkScores, score_chunk
from memkit.worlds.gallery_tours import GalleryClip
from memkit.worlds.paths import Path, Pose, Segment, Turn, Wait
from memkit.worlds.paths import Walk as Ahead

Move = Literal["left", "half left", "right", "half right", "forward", "wait"]
Seen = Literal["first view", "once around"]
Videos = UInt8[Tensor, "frames height width 3"]

STRIDE = NUM_FRAMES - 1
"""New frames per move: two seconds, the length that the model was trained with."""
SECONDS = STRIDE / FPS
DEGREES_PER_SECOND = 45.0
ROOM = 1.0
"""Metres from the middle that a step may lead to: the panels are 4 m away, the pillars 2.3 m."""
MOST_MOVES, MOST_SEED = 40, 9_999
_MOVES: dict[Move, tuple[Segment, ...]] = {
    "left": (Turn(90.0, DEGREES_PER_SECOND),),
    "half left": (Turn(45.0, DEGREES_PER_SECOND), Wait(1.0)),
    "right": (Turn(-90.0, DEGREES_PER_SECOND),),
    "half right": (Turn(-45.0, DEGREES_PER_SECOND), Wait(1.0)),
    "forward": (Ahead(0.6), Wait(SECONDS - 0.5)),
    "wait": (Wait(SECONDS),),
}


class Room:
    """The model of the gallery and what it was trained with to see its past; loaded once, shared by all walks."""

    def __init__(self, backbone: WanBackbone, context: FrameContext) -> None:
        self.backbone, self.context = backbone, context
        backbone.pipeline().set_progress_bar_config(disable=True)

    @classmethod
    def load(cls) -> Room:
        """Load the weights that memkit ships. Raises `FileError` where a file is damaged."""
        backbone, method = load_gallery()
        return cls(backbone, method.context)


@dataclass(frozen=True)
class Chunk:
    """The frames of one move, the first of which is the last one before it."""

    move: Move
    memory: MemoryName
    truth: Videos
    with_memory: Videos
    without: Videos
    scores: tuple[ChunkScores, ChunkScores]
    """With memory and without, against the truth; see `memkit.worlds.gallery_scores`."""


class Walk:
    """A walk through test gallery number ``gallery``, generated twice by the same weights and from the same noise.

        walk = Walk(room, gallery=3)
        chunk = walk.step("left", "past")
        chunk.truth, chunk.with_memory, chunk.without

    Both videos begin with what ``seen`` says, rendered: the first view, held for four seconds, or a turn once around.
    ``steps`` are sampling steps per move.
    """

    def __init__(self, room: Room, gallery: int = 0, seen: Seen = "first view", seed: int = 0, steps: int = 3) -> None:
        check_whole("gallery", gallery, 0, 99_999)
        check_whole("steps", steps, 1, MOST_STEPS)
        check_whole("seed", seed, 0, MOST_SEED)
        if seen not in get_args(Seen):
            raise InputError(f"seen is {seen!r}; choose one of {', '.join(get_args(Seen))}.")
        self.room, self.seed, self.steps = room, seed, steps
        self.moves: list[Move] = []
        self.gallery = Gallery.named(f"test-{gallery:05d}")
        self.path = Path((0.0, 0.0, self.gallery.yaw))
        turn = Turn(360.0, DEGREES_PER_SECOND)
        # the model hardly reads a past shorter than two chunks: in training, panels come back after three
        self.path = self.path.then(turn if seen == "once around" else Wait(2 * SECONDS))
        self.seen = self._length
        self.truth = self._clip().video(self.seen, FPS)
        self.with_memory, self.without = self.truth, self.truth
        self._rollout = self._new("past", self.truth)

    def _new(self, memory: MemoryName, past: Videos) -> Rollout:
        """A rollout that has seen the end of the path so far."""
        at = self._clip().cameras(self._length, FPS)
        cameras = Cameras(at.c2w[None, -len(past) :], at.intrinsics[None, -len(past) :])
        method = make_memory(memory, self.room.context)
        rollout = Rollout(self.room.backbone, method, steps=self.steps, guidance_scale=1.0)
        rollout.observe(past[None], cameras)
        return rollout

    @property
    def _length(self) -> int:
        """Frames so far."""
        return round(self.path.duration * FPS) + 1

    @property
    def pose(self) -> Pose:
        """Where the camera is: x and y in metres, and its direction in radians."""
        x, y, yaw = self.path.pose(torch.tensor([self.path.duration]))[0].tolist()
        return x, y, yaw

    def _clip(self) -> GalleryClip:
        """The rendered gallery along the path so far."""
        return GalleryClip(self.gallery, self.path, 0.0, self.path.duration)

    def step(self, move: Move, memory: MemoryName, switch: Switch | None = None, report: Report | None = None) -> Chunk:
        """The next two seconds, with ``memory`` and without any.

        Raises `InputError` for an unknown move or memory, and where there is no room for a step; `Stopped` if
        ``switch`` asks for it between two sampling steps: the walk is then where it was before.
        """
        if move not in _MOVES:
            raise InputError(f"The move is {move!r}; choose one of {', '.join(_MOVES)}.")
        if len(self.moves) >= MOST_MOVES:
            raise InputError(f"This walk has {MOST_MOVES} moves, the most that the page keeps; start again.")
        path = self.path.then(*_MOVES[move])
        x, y, _ = path.pose(torch.tensor([path.duration]))[0].tolist()
        if math.hypot(x, y) > ROOM:
            raise InputError("The way ahead ends at the panels; turn around first.")
        clip = GalleryClip(self.gallery, path, self.path.duration, SECONDS)
        truth, at = clip.video(NUM_FRAMES, FPS), clip.cameras(NUM_FRAMES, FPS)
        cameras = Cameras(at.c2w[None], at.intrinsics[None])
        seeds = [self.seed * MOST_MOVES + len(self.moves)]
        with watched(self.room.backbone, 2 * self.steps, switch or Switch(), report):
            alone = self._new("none", self.without[-1:]).generate([clip.motion], cameras, seeds)[0]
            self._rollout.method = make_memory(memory, self.room.context)
            # last, as it adds to the past: a step that was stopped has changed nothing
            chunk = self._rollout.generate([clip.motion], cameras, seeds)[0]
        self.path = path
        self.moves.append(move)
        self.truth = torch.cat([self.truth, truth[1:]])
        self.with_memory = torch.cat([self.with_memory, chunk[1:]])
        self.without = torch.cat([self.without, alone[1:]])
        scores = [score_chunk(self._clip(), FPS, v, self.seen, NUM_FRAMES) for v in (self.with_memory, self.without)]
        return Chunk(move, memory, truth, chunk, alone, (scores[0], scores[1]))
