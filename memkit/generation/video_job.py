"""`VideoJob`: a video to generate, and a JSON file of all that it depends on, so that no run does its work twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import InputError
from memkit.files.json_files import write_json
from memkit.video.frames import write_video


class VideoJob(NamedTuple):
    """A video to generate.

    Attributes:
        prompt: what to generate.
        seed: of the noise.
        video: the mp4 file.
        about: a JSON file of prompt, seed and settings. It is written last: a video without it is generated again.
        own: ids that a clip of the same video would have in a bank, to keep it out of its own memory.
    """

    prompt: str
    seed: int
    video: Path
    about: Path
    own: Sequence[str] = ()

    def is_done(self, settings: dict[str, Any]) -> bool:
        """Whether the video exists and is whole.

        Raises `InputError` if it was generated from another prompt or seed, under another name or with other
        ``settings`` (JSON values): it is never overwritten.
        """
        try:
            before = json.loads(self.about.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # not begun, or cut short by a crash of the machine
            return False
        try:
            name, size = before.get("file", self.video.name), before.get("bytes")
            asked = {"prompt": before["prompt"], "its seed": before["seed"], "its file": name, **before["settings"]}
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.about} is not of this recipe; give another folder for the videos, or remove it."
            ) from error
        now = {"prompt": self.prompt, "its seed": self.seed, "its file": self.video.name, **settings}
        if changed := [key for key, value in now.items() if asked.get(key) != value]:
            raise InputError(
                f"{self.about} was made with other settings ({', '.join(changed)}); "
                "give another folder for the videos, or remove it."
            )
        return self.video.exists() and size in (None, self.video.stat().st_size)

    def write(
        self, frames: UInt8[Tensor, "frames height width 3"], fps: float, settings: dict[str, Any], **facts: Any
    ) -> None:
        """Write the video, then the JSON file, in which ``facts`` stand beside the settings."""
        write_video(self.video, frames, fps)
        made = {"prompt": self.prompt, "seed": self.seed, "file": self.video.name, "bytes": self.video.stat().st_size}
        write_json(self.about, {**made, **facts, "settings": settings})
