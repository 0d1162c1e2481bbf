"""Videos in each container that memkit reads."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from memkit.video import read_video, write_video
from tests.faults.kinds import ANY, FileKind
from tests.helpers.video_files import CONTAINERS, numbered_noise, write_kind

PICTURES = "compressed pictures have no checksums: most damage to them shows as an error of the decoder, but not all"
INSIDE = ANY - {"cut", "cut at a line"}
"""What may leave a file that decodes without an error; one that ends too early must show."""


def make(name: str, folder: Path, seed: int) -> None:
    write_kind(folder, name, numbered_noise(16, 32, 48).roll(seed, 2))


def use(name: str, folder: Path) -> object:
    video = read_video(folder / name)
    return video.frames, video.fps


def make_own(folder: Path, seed: int) -> None:
    write_video(folder / "own.mp4", numbered_noise(16, 32, 48).roll(seed, 2), 8.0)


KINDS = (
    FileKind("video: write_video's mp4", make_own, partial(use, "own.mp4"), blind={"*": INSIDE}, why_blind=PICTURES),
    *(
        FileKind(f"video: {name}", partial(make, name), partial(use, name), blind={"*": INSIDE}, why_blind=PICTURES)
        for name in CONTAINERS
    ),
)
