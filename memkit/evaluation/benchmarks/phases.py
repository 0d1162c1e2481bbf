"""The phases of a clip of MemoBench, and which generated frame is compared with which true one.

The subject of a clip is visible until it exits (V), hidden until it re-enters (D), and then visible again (R).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memkit.errors import InputError

LEAST_FRAMES = 6
"""Fewer frames of a video have no room for the three phases."""


class Phases(NamedTuple):
    """The frame of a clip at which its subject exits and that at which it re-enters; ``skip`` leaves the clip out."""

    exits: int
    reenters: int
    skip: bool = False


def phases_of(clip: Phases, count: int, length: int) -> Phases:
    """The phases of a video of ``length`` frames, for those of a clip of ``count`` frames.

    The exit is scaled and rounded, and kept between 2 and length − 4; so is the re-entry, between 2 frames after the
    exit and length − 1.

    Raises `InputError` for fewer than 6 frames.
    """
    if length < LEAST_FRAMES:
        raise InputError(f"A video of {length} frames has no room for three phases; generate {LEAST_FRAMES} or more.")
    exits = min(max(round(clip.exits / count * length), 2), length - 4)
    return Phases(exits, min(max(round(clip.reenters / count * length), exits + 2), length - 1))


def pairs(clip: Phases, count: int, length: int) -> dict[str, list[tuple[int, int]]]:
    """The pairs (generated frame, true frame) of each phase V, D and R, for a clip of ``count`` frames.

    A phase has all of its frames, from its first s to its last e. Frame i of n generated ones is compared with the
    true frame round(s + i(e − s)/(n − 1)). That the frames of exit and re-entry begin the phase after them, and that a
    phase of one generated frame is compared with the first true one, is our reading.

    Raises `InputError` where the re-entry is beyond the clip, and for a video of fewer than 6 frames.
    """
    if clip.reenters >= count:
        raise InputError(f"The subject re-enters at frame {clip.reenters} of {count}; check the table of exits.")
    video = phases_of(clip, count, length)
    own = {"V": (0, video.exits - 1), "D": (video.exits, video.reenters - 1), "R": (video.reenters, length - 1)}
    true = {"V": (0, clip.exits - 1), "D": (clip.exits, clip.reenters - 1), "R": (clip.reenters, count - 1)}
    found = {}
    for name, (first, last) in own.items():
        start, end = true[name]
        steps = last - first
        found[name] = [(first + i, round(start + i * (end - start) / max(1, steps))) for i in range(steps + 1)]
    return found


# -- tables ------------------------------------------------------------------------------------------------------------

_ID, _EXIT, _REENTER = ("video_folder", "id"), ("exits", "exit"), ("re-enter", "reenter")
_FALSE = ("", "0", "0.0", "false", "no", "none", "nan")


def read_phases(files: Iterable[Path]) -> dict[str, Phases]:
    """The phases of each clip of the published tables, by its name; ids of real clips get three digits.

    Tables are .xlsx, which need openpyxl, or .csv. Their columns are video_folder or id, exits or exit, re-enter or
    reenter, which are numbers of frames from 0, and perhaps skip.

    Raises:
        InputError: a table cannot be read or lacks a column, or a row has no usable numbers; file and line are named.
    """
    found: dict[str, Phases] = {}
    for file in files:
        rows = _xlsx(file) if file.suffix == ".xlsx" else _csv(file)
        for line, row in rows:
            name, phases = _phases(f"{file}, line {line}", row)
            found[name] = phases
    return found


def _phases(where: str, row: Mapping[str, Any]) -> tuple[str, Phases]:
    values = {str(key).strip().lower(): value for key, value in row.items() if key is not None}
    columns = [next((name for name in names if name in values), None) for names in (_ID, _EXIT, _REENTER)]
    if None in columns:
        raise InputError(f"{where}: the columns are {', '.join(values)}; it needs video_folder, exits and re-enter.")
    name, *numbers = (str(values[column]).strip() for column in columns if column is not None)
    name = f"{int(float(name)):03d}" if name.replace(".", "", 1).isdecimal() else Path(name).name
    if str(values.get("skip", "")).strip().lower() not in _FALSE:
        return name, Phases(0, 0, skip=True)
    try:
        exits, reenters = (round(float(number)) for number in numbers)
    except ValueError as error:
        raise InputError(f"{where}: {name} has exit and re-entry {numbers}; give numbers of frames.") from error
    if not 0 < exits < reenters:
        raise InputError(f"{where}: {name} exits at {exits} and re-enters at {reenters}; give ascending numbers.")
    return name, Phases(exits, reenters)


def _csv(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            return list(enumerate(csv.DictReader(opened), 2))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV ({error}); download it again.") from error


def _xlsx(file: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise InputError(f"{file} needs openpyxl; run pip install openpyxl, or save the table as CSV.") from error
    try:
        sheet: Any = load_workbook(file, read_only=True, data_only=True).active
        rows: Sequence[Sequence[Any]] = list(sheet.values)
    except Exception as error:  # openpyxl and zipfile have many types for a damaged file
        raise InputError(f"{file} cannot be read as a table ({error}); download it again.") from error
    names = [str(name or "") for name in rows[0]] if rows else []
    filled = [(n, row) for n, row in enumerate(rows[1:], 2) if any(value is not None for value in row)]
    return [(n, dict(zip(names, ("" if v is None else v for v in row), strict=False))) for n, row in filled]
