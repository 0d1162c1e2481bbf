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
    """A usable row of a caption file. ``file`` is the video; ``line`` is the last line of the row in the file."""

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
    """Line number and fields of each row: video, caption, id, source, and ``extra`` for those without a column.

    The column video may be missing unless ``need_video``. Fields that a row lacks are None. Raises `InputError` if the
    file as a whole is not a caption file.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
            video = next((columns[name] for name in ("video", "video_path") if name in columns), None)
            if "caption" not in columns or (need_video and video is None):
                needed, found = "columns video and" if need_video else "column", ", ".join(columns) or "none"
                raise InputError(f"{path} needs the {needed} caption in its first line; it has {found}.")
            names = {name: columns[name] for name in ("caption", "id", "source") if name in columns}
            names |= {} if video is None else {"video": video}
            fields: dict[Any, Any]
            for fields in reader:
                extra = fields.get(None)
                yield reader.line_num, {key: fields[name] for key, name in names.items()} | {"extra": extra}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give the caption file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file ({error}); put fields with commas in double quotes.") from error


def _row(line: int, fields: dict[str, Any], videos: Path) -> Row | BadItem:
    written = (fields["video"] or "").strip()
    name = written or f"line {line}"
    if fields["extra"]:
        return BadItem(line, name, "it has more fields than columns; put captions with commas in double quotes")
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
    if not file.is_file():
        return BadItem(line, name, f"there is no file {file}")
    id = (fields.get("id") or "").strip() or PurePosixPath(relative).as_posix()
    return Row(line, file, caption, id, (fields.get("source") or "").strip() or file.stem)
