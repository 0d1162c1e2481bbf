"""Prompts from a list and from a CSV file, with safe names for the videos to generate.

The CSV has a column ``caption`` and, to name the videos by it, a column ``video`` (or ``Video``, ``video_path``).
`Prompt.own` has the ids that clips of this video would have in a bank, which can so be kept out of its own memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from memkit.banks.captions import caption_records
from memkit.errors import InputError


class Prompt(NamedTuple):
    """A prompt; ``name`` is the name of its video without suffix, ``own`` the ids that clips of the same video have."""

    name: str
    text: str
    own: list[str]


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[Prompt]:
    """All prompts of a list and of a CSV file, equal ones once.

    Raises `InputError` for no prompt at all, a bad file, a blank prompt, or two prompts of one name.
    """
    found = [Prompt(_slug(text), text, []) for text in prompts]
    if file is not None:
        found += _read_csv(file)
    if not found:
        raise InputError("There is nothing to generate; give --prompts or --csv.")
    named: dict[str, Prompt] = {}
    for prompt in found:
        if not prompt.text.strip():
            raise InputError(f"The prompt {prompt.name!r} is blank; write one, or take it out.")
        if named.setdefault(prompt.name, prompt) != prompt:
            raise InputError(f"Two prompts are named {prompt.name!r}; give them names of their own.")
    return list(named.values())


def _read_csv(file: Path) -> list[Prompt]:
    prompts = []
    for _, fields in caption_records(file, need_video=False):
        video, text = (fields.get("video") or "").strip(), fields["caption"] or ""
        own = [video, Path(video).stem] if video else []
        prompts.append(Prompt(_safe(Path(video).stem) if video else _slug(text), text, own))
    if not prompts:
        raise InputError(f"{file} has no row; give one row per prompt.")
    return prompts


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "video"


def _slug(text: str) -> str:
    return f"{_safe(text)[:60].rstrip('.-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
