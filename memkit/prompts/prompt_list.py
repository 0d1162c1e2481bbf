"""Prompts from a list and from a CSV file, with safe names for the videos to generate.

The CSV has a column ``caption`` and, to name the videos by it, a column ``video`` (or ``Video``, ``video_path``).
`Prompt.own` has the ids that clips of this video would have in a bank, which can so be kept out of its own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memkit.banks.captions import BadItem, caption_records
from memkit.checks import shown
from memkit.errors import InputError
from memkit.files.names import file_names

_MOST_LISTED = 20  # bad rows in one message


class Prompt(NamedTuple):
    """A prompt; ``name`` is the name of its video without suffix, ``own`` the ids that clips of the same video have."""

    name: str
    text: str
    own: list[str]


class _Asked(NamedTuple):
    """A usable prompt. ``where`` it is from, ``key`` tells it from others: the video that it names, or its text."""

    line: int
    where: str
    key: str
    text: str
    video: str


def read_prompts(prompts: str | Sequence[str], file: Path | None) -> list[Prompt]:
    """All prompts of a list (one string is one prompt) and of a CSV file, equal ones once.

    Raises:
        InputError: there is no prompt at all, the file cannot be read, or prompts cannot be used; the message names
            them, with their lines of the file.
    """
    found, bad = usable_prompts(prompts, file)
    if bad:
        listed = "; ".join(f"{item.name}: {item.reason}" for item in bad[:_MOST_LISTED])
        more = f"; and {len(bad) - _MOST_LISTED} more" if len(bad) > _MOST_LISTED else ""
        raise InputError(f"{len(bad)} prompts cannot be used. {listed}{more}.")
    return found


def usable_prompts(prompts: str | Sequence[str], file: Path | None) -> tuple[list[Prompt], list[BadItem]]:
    """The prompts of `read_prompts` that can be used, and those that cannot, with the reason.

    Names are those of `memkit.files.names.file_names`: of a video without its folder, or of a text, with a digest.

    Raises:
        InputError: there is no prompt at all, or the file cannot be read.
    """
    listed = [prompts] if isinstance(prompts, str) else prompts  # what is no text is named as a bad item
    rows = [_asked(0, f"prompt {number}", text, "") for number, text in enumerate(listed, 1)]
    if file is not None:
        in_file = [_of_row(file, line, fields) for line, fields in caption_records(file, need_video=False)]
        if not in_file:
            raise InputError(f"{file} has no row; give one row per prompt.")
        rows += in_file
    if not rows:
        raise InputError("There is nothing to generate; give --prompts or --csv.")
    usable: dict[str, _Asked] = {}
    bad: list[BadItem] = []
    for row in rows:
        if isinstance(row, BadItem):
            bad.append(row)
        elif (first := usable.setdefault(row.key, row))[3:] != row[3:]:
            reason = f"{first.where} is named {row.key[:60]!r} too; give each prompt a name of its own"
            bad.append(BadItem(row.line, row.where, reason))
    stems = {row.key: Path(row.video).stem for row in usable.values() if row.video}
    names = file_names(usable, readable=stems, digested=usable.keys() - stems.keys())
    own = {key: [key, stem] for key, stem in stems.items()}
    return [Prompt(names[key], row.text, own.get(key, [])) for key, row in usable.items()], bad


def _of_row(file: Path, line: int, fields: dict[str, Any]) -> _Asked | BadItem:
    where = f"{file}, line {line}"
    if fields["problem"]:
        return BadItem(line, where, fields["problem"])
    return _asked(line, where, fields["caption"] or "", (fields.get("video") or "").strip())


def _asked(line: int, where: str, text: str, video: str) -> _Asked | BadItem:
    if not isinstance(text, str):
        return BadItem(line, where, f"it is {shown(text)}, which is no text")
    if not text.strip():
        return BadItem(line, where, "it is blank; write a prompt, or take it out")
    return _Asked(line, where, video or text, text, video)
