"""`VideoJob`: a video to generate, and a JSON file of all that it depends on, so that no run does its work twice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import InputError
from memkit.files.atomic import hash_files, reading
from memkit.files.json_files import read_json, write_json
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
        """Whether the video exists and is whole; one that is cut short or damaged is to be generated again.

        Raises `InputError` if it was generated from another prompt or seed, under another name or with other
        ``settings`` (JSON values), or if the JSON file is damaged: a video is never overwritten by another one.
        """
        if not self.about.exists():
            return False
        remedy = "remove it to generate the video again, or give another folder for the videos"
        with reading(self.about, remedy):
            if not self.about.read_bytes().rstrip().endswith(b"}"):  # cut short by a crash of the machine
                return False
        before = read_json(self.about, remedy)
        try:
            name = before.get("file", self.video.name)
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
        if not self.video.exists():
            return False
        whole = before.get("bytes") in (None, self.video.stat().st_size)
        if whole and before.get("sha256") in (None, hash_files(self.video)):
            return True
        print(f"{self.video} is damaged and is generated again", file=sys.stderr)
        return False

    def write(
        self, frames: UInt8[Tensor, "frames height width 3"], fps: float, settings: dict[str, Any], **facts: Any
    ) -> None:
        """Write the video, then the JSON file, in which ``facts`` stand beside the settings."""
        write_video(self.video, frames, fps)
        file = {"file": self.video.name, "bytes": self.video.stat().st_size, "sha256": hash_files(self.video)}
        write_json(self.about, {"prompt": self.prompt, "seed": self.seed, **file, **facts, "settings": settings})
