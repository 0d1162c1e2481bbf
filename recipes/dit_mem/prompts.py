"""The prompts of a command line and of a CSV file, named.

The CSV has the column caption and, where the videos should be named by it, video (or Video, video_path). A clip of the
bank with that name, and all of its source, is kept out of the prompt's memory.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from memkit.errors import InputError


class Prompt(NamedTuple):
    """``name`` is that of the files, without suffix; ``own`` are ids that a clip of the same video would have."""

    name: str
    text: str
    own: list[str]


def read_prompts(prompts: Sequence[str], file: Path | None) -> list[Prompt]:
    """All prompts, named; equal ones once. Raises `InputError` for a bad file, a blank prompt or a name used twice."""
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
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            rows = [
                {(key or "").strip().lower(): value or "" for key, value in row.items()}
                for row in csv.DictReader(opened)
            ]
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise InputError(f"{file} cannot be read as CSV ({error}); give UTF-8 with a line of column names.") from error
    if not rows or "caption" not in rows[0]:
        raise InputError(f"{file} has no column caption, or no row; give one row a prompt.")
    prompts = []
    for row in rows:
        video = (row.get("video") or row.get("video_path") or "").strip()
        own = [video, Path(video).stem] if video else []
        prompts.append(Prompt(_safe(Path(video).stem) if video else _slug(row["caption"]), row["caption"], own))
    return prompts


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "video"


def _slug(text: str) -> str:
    return f"{_safe(text)[:60].rstrip('.-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
