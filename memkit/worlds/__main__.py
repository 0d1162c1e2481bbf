"""Render a clip of a suite to a video file and print its caption.

python -m memkit.worlds show laws --seed 3 --out x.mp4
python -m memkit.worlds show rooms --out room.mp4 --num-frames 500
python -m memkit.worlds show gallery --split test --out gallery.mp4
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import InputError, MemkitError
from memkit.video.frames import write_video
from memkit.worlds import interruptions
from memkit.worlds.constants import Split
from memkit.worlds.event import FPS
from memkit.worlds.gallery_tours import GalleryTour
from memkit.worlds.interruptions import sample_interruption
from memkit.worlds.laws import sample_law
from memkit.worlds.rooms import RoomClip, sample_room

_LONG = {"laws": 33, "interruptions": interruptions.NUM_FRAMES, "rooms": 160, "gallery": 65}
_MOST_PIXELS = 1 << 28  # of all frames together; as floats they are 3 GiB


@dataclass(frozen=True)
class Show:
    """Render one clip."""

    suite: Annotated[Literal["laws", "interruptions", "rooms", "gallery"], tyro.conf.Positional]
    """Suite of worlds to draw from."""
    out: Path = Path("world.mp4")
    """The video file to write."""
    seed: int = 0
    """Seed of the clip."""
    kind: str | None = None
    """Kind of event in the suite laws, such as "drop" or "swing"; by default any."""
    by: interruptions.By | None = None
    """Kind of interruption in the suite interruptions; by default any."""
    split: Split = "train"
    """Split of the planets, materials, substances, rooms or galleries."""
    num_frames: int | None = None
    """Number of frames, at 8 per second; by default 33, 49, 160 or 65, depending on the suite."""
    size: int = 256
    """Height and width of the video in pixels."""
    dynamic: bool = True
    """Whether people move in the room, or a figure in the gallery."""


def clip(show: Show) -> tuple[str, Callable[[], UInt8[Tensor, "frames size size 3"]]]:
    """The caption, and a function that renders the video; `InputError` for sizes that cannot be rendered."""
    rng, frames = random.Random(show.seed), _LONG[show.suite] if show.num_frames is None else show.num_frames
    if frames < 1 or show.size < 2 or frames * show.size**2 > _MOST_PIXELS:
        raise InputError(f"{frames} frames of {show.size}×{show.size} cannot be rendered; give other sizes.")
    if show.suite == "laws":
        event = sample_law(rng, show.split, None if show.kind is None else (show.kind,))
        return f"{event.caption} [{event.law}]", lambda: event.video(frames, size=show.size)
    if show.suite == "interruptions":
        whole = sample_interruption(rng, show.split, show.by)
        return f"{whole.caption} [{whole.event.law}]", lambda: whole.video(frames, size=show.size)
    if show.suite == "gallery":
        seconds = (frames - 1) / FPS
        name = f"{show.split}-{rng.randrange(100_000):05d}" + "-dynamic" * show.dynamic
        tour = GalleryTour(name, 1, max(seconds, 1 / FPS)).part(0)
        return f"{tour.motion} [{name}]", lambda: tour.video(frames, size=show.size)
    room, seconds = sample_room(rng, show.split, show.dynamic), frames / FPS
    walk = RoomClip(room, room.tour(rng, seconds), 0.0, seconds)
    return walk.caption, lambda: walk.video(frames, size=show.size)


def main(show: Show) -> int:
    """Render, write and print; returns the exit code."""
    try:
        caption, render = clip(show)
        write_video(show.out, render(), FPS)
    except (MemkitError, OSError) as error:
        print(f"memkit.worlds: {error}", file=sys.stderr)
        return 2
    print(f"{show.out}: {caption}")
    return 0


if __name__ == "__main__":
    sys.exit(
        main(tyro.extras.subcommand_cli_from_dict({"show": Show}, prog="python -m memkit.worlds", description=__doc__))
    )
