"""Caption files: CSV files of videos and captions.

The format is that of the DiT-Mem release: UTF-8 with or without a byte-order mark, and column names in the first line:

    video      path of the file inside the folder; also ``video_path`` or ``Video``
    caption    what the clip shows
    id         optional; the id of the clip, by default its path as written
    source     optional; what the clip was cut from, by default the name of its file without folder and suffix.
               Retrieval can exclude all clips of one source, so give clips cut from one film the same source.

Other columns (the scores of the release) are ignored. A row that cannot be used becomes a `BadItem` with the reason.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from memkit.errors import InputError


class Row(NamedTuple):
    """A usable row of a caption file. ``file`` is the video; ``line`` is the line of the file at which it begins."""

    line: int
    file: Path
    caption: str
    id: str
    source: str


class BadItem(NamedTuple):
    """A row that is not in the bank, and why."""

    line: int
    name: str
    reason: str


def read_captions(path: str | os.PathLike[str], videos: str | os.PathLike[str]) -> tuple[list[Row], list[BadItem]]:
    """The usable rows of a caption file, whose videos are in the folder ``videos``, and those that cannot be used.

    Raises `InputError` if the file as a whole is not a caption file.
    """
    path, videos = Path(path), Path(videos)
    if not videos.is_dir():
        raise InputError(f"There is no folder {videos}; give the folder that holds the videos.")
    rows: list[Row] = []
    bad: list[BadItem] = []
    seen: dict[str, int] = {}
    for line, fields in caption_records(path):
        row = _row(line, fields, videos)
        if isinstance(row, Row) and row.id in seen:
            reason = f"line {seen[row.id]} has the id {row.id!r} already; give each row its own in a column id"
            row = BadItem(line, row.id, reason)
        if isinstance(row, BadItem):
            bad.append(row)
        else:
            rows.append(row)
            seen[row.id] = line
    return rows, bad


def caption_records(path: Path, need_video: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line at which each row begins, and its fields: video, caption, id, source, and ``problem``.

    ``problem`` says why the row as a whole cannot be used, or is None; such a row has only the fields that could be
    read. Fields that a row lacks are None. The column video may be missing unless ``need_video``.

    Raises:
        InputError: the file cannot be read or is not UTF-8, or a needed column is missing or there twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = file.readlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise InputError(f"{str(path)!r} cannot be read ({error}); give the caption file.") from error
    records = _records(lines)
    _, header, problem = next(records, (1, [], None))
    if problem is not None:
        raise InputError(f"{path} has no usable first line: {problem}.")
    places = _columns(path, header, need_video)
    for line, values, problem in records:
        if values or problem:
            fields = {name: values[at] if at < len(values) else None for name, at in places.items()}
            if problem is None and len(values) > len(header):
                problem = "it has more fields than columns; put captions with commas in double quotes"
            elif problem is None and any("\0" in value for value in values):
                problem = "it has a NUL character, as after a fault of the disk; write it again"
            yield line, {**fields, "problem": problem}


def _columns(path: Path, header: list[str], need_video: bool) -> dict[str, int]:
    """Where the fields of `caption_records` are in a row."""
    names = [name.strip().lower() for name in header]
    videos = [name for name in ("video", "video_path") if name in names]
    if "caption" not in names or (need_video and not videos):
        needed = "columns video and" if need_video else "column"
        found = ", ".join(names)[:200] or "none"
        raise InputError(f"{path} needs the {needed} caption in its first line; it has {found}.")
    twice = [name for name in ("video", "video_path", "caption", "id", "source") if names.count(name) > 1]
    if twice or len(videos) > 1:
        raise InputError(f"{path} has the column {(twice or videos)[0]} twice; keep one of them.")
    places = {name: names.index(name) for name in ("caption", "id", "source") if name in names}
    return places | ({"video": names.index(videos[0])} if videos else {})


def _records(lines: list[str]) -> Iterator[tuple[int, list[str], str | None]]:
    """The first line, the fields and the problem of each record of a CSV file; reading goes on after a bad line."""
    at = 0
    while at < len(lines):
        reader = csv.reader((lines[i] for i in range(at, len(lines))), strict=True)
        try:
            fields = next(reader)
        except csv.Error as error:
            reason = (
                f"it is not a row of a CSV file ({error}); put fields with commas in double quotes, and double them"
            )
            yield at + 1, [], f"{reason} inside a field"
            at += 1
        else:
            yield at + 1, fields, None
            at += reader.line_num


def _row(line: int, fields: dict[str, Any], videos: Path) -> Row | BadItem:
    written = (fields.get("video") or "").strip()
    name = written or f"line {line}"
    if fields["problem"]:
        return BadItem(line, name, fields["problem"])
    if not written:
        return BadItem(line, name, "it names no video; fill in the column")
    caption = (fields["caption"] or "").strip()
    if not caption:
        return BadItem(line, name, "its caption is blank; write one, or remove the row")
    # Not resolved: links that the owner put into the folder may lead anywhere, but a row may not.
    relative = os.path.relpath(os.path.normpath(os.path.join(videos, written)), os.path.normpath(videos))
    if relative == os.pardir or relative.startswith(os.pardir + os.sep) or "\0" in written:
        return BadItem(line, name, f"its path leads out of {videos}; give one inside it")
    file = videos / relative
    if not os.path.isfile(file):  # false, too, for names that no file can have
        return BadItem(line, name, f"there is no file {file}")
    id = (fields.get("id") or "").strip() or PurePosixPath(relative).as_posix()
    return Row(line, file, caption, id, (fields.get("source") or "").strip() or file.stem)
