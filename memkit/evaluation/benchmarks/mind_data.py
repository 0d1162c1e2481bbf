"""The scenes of MIND on disk: ``action.json``, and the frames of ``video.mp4``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from memkit.checks import MOST_FRAMES, check_whole
from memkit.errors import InputError
from memkit.files.atomic import reading
from memkit.files.json_files import parse_json
from memkit.video.reader import VideoReader


class Scene(NamedTuple):
    """A folder of the data: ``video.mp4``, ``action.json`` and ``images.txt``."""

    view: str
    test: str
    folder: Path
    mark: int
    """First frame to predict."""
    total: int
    caption: str


def read_scene(view: str, test: str, folder: Path) -> Scene:
    """The scene of a folder. Raises `InputError` where its ``action.json`` is not as published."""
    file = folder / "action.json"
    remedy = "download MIND again"
    with reading(file, remedy):
        content: Any = parse_json(file.read_bytes())
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object; {remedy}.")
    mark, total, caption = (content.get(name) for name in ("mark_time", "total_time", "caption"))
    for name, value in (("mark_time", mark), ("total_time", total)):
        check_whole(f"{file}: {name}", value, 0, MOST_FRAMES)
    assert isinstance(mark, int) and isinstance(total, int)
    if mark >= total:
        raise InputError(
            f"{file}: mark_time is {mark} and total_time {total}, so nothing is left to predict; {remedy}."
        )
    if not isinstance(caption, str):
        raise InputError(f"{file} has no caption; {remedy}.")
    return Scene(view, test, folder, mark, total, caption)


def read_frames(file: Path, start: int, stop: int) -> Iterator[UInt8[Tensor, "height width 3"]]:
    """Frames ``start`` to ``stop`` of a video, one by one.

    Raises `InputError` where it is shorter, and `MediaError` where it cannot be decoded.
    """
    number = 0
    with VideoReader(file) as reader:
        for _, frame in reader.frames():
            if number >= start:
                yield frame
            number += 1
            if number == stop:
                return
    raise InputError(f"{file} has {number} frames, fewer than the {stop} of action.json; download it again.")
