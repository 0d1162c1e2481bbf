"""PhyGenBench (arXiv 2410.05363): its prompt file, and the videos that its scorer looks for."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memkit.errors import InputError
from memkit.prompts.plan import PlannedVideo

VIDEO_NAME = "video_output_{n}.mp4"
_NAME = re.compile(r"[^/\\\0]{1,80}")


class PhyGenBenchPrompt(NamedTuple):
    """A prompt, and what it is sorted under: main category, sub-category, physical laws."""

    caption: str
    categories: tuple[str, ...]


def read_phygenbench(file: Path) -> list[PhyGenBenchPrompt]:
    """The prompts of the benchmark's ``prompts.json``, in its order.

    The file is a list of ``{"caption", "physical_laws", "sub_category", "main_category"}``.

    Raises `InputError` naming the first entry, counted from 1, that is not of this form.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); download PhyGenBench's prompts.json.") from error
    if not isinstance(content, list) or not content:
        raise InputError(f"{file} is not a list of prompts; download PhyGenBench's prompts.json.")
    return [_entry(f"{file}, entry {n}", found) for n, found in enumerate(content, 1)]


def _entry(where: str, found: Any) -> PhyGenBenchPrompt:
    if not isinstance(found, dict):
        raise InputError(f"{where} is no object but {reprlib.repr(found)}; download the file again.")
    caption = found.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise InputError(f"{where} has no caption, or a blank one; download the file again.")
    categories = []
    for key in ("main_category", "sub_category", "physical_laws"):
        value = found.get(key)
        names = [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]
        if not names:
            raise InputError(f"{where} ({caption[:60]!r}) has no {key}; download the file again.")
        categories.append(", ".join(names))
    return PhyGenBenchPrompt(caption, tuple(categories))


def plan_phygenbench(
    entries: Sequence[PhyGenBenchPrompt], seed: int, video_name: str = VIDEO_NAME
) -> list[PlannedVideo]:
    """One video per prompt, all from the same seed (as in DiT-Mem), numbered from 1 in the order of the file.

    ``video_name`` has ``{n}`` in the place of the number. Raises `InputError` where it is no file name of an mp4 file.
    """
    if video_name.count("{n}") != 1 or not video_name.endswith(".mp4") or not _NAME.fullmatch(video_name):
        raise InputError(f"video_name is {video_name!r}; give a file name with {{n}} in it once and .mp4 at its end.")
    return [
        PlannedVideo(f"{n}", video_name.replace("{n}", f"{n}"), entry.caption, seed, entry.categories)
        for n, entry in enumerate(entries, 1)
    ]
