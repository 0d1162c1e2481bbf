"""Measured rows in a file to which an interrupted evaluation adds what is missing."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from tqdm import tqdm

from memkit.errors import FileError, InputError
from memkit.files.atomic import atomic_write, writing
from memkit.files.json_files import append_row, line_of, read_log
from memkit.files.non_finite import to_float, to_json


@runtime_checkable
class Row(Protocol):
    """A dataclass whose fields can be written as JSON: see `memkit.files.non_finite` for NaN and infinities."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...
    @property
    def condition(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=Row)
Value = TypeVar("Value")


class ResultStore(Generic[AnyRow]):
    """The rows of a JSONL file, by condition and id. Its first line holds the settings they were measured with.

    A last line that a crash has cut short is dropped, and measured again. The file is never overwritten.

    Raises:
        InputError: the file was measured with other settings.
        FileError: a line is damaged or no row of ``kind``, or the file cannot be read or written.
    """

    def __init__(self, file: Path, settings: dict[str, Any], kind: Callable[..., AnyRow]) -> None:
        self.file, self._bar = file, None
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                with atomic_write(file) as partial:
                    partial.write_text(line_of(_plain(settings)), encoding="utf-8")
        before, self.rows = _read(file, kind)
        check_settings(file, before, settings)
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        whole, newline, torn = self.file.read_bytes().rpartition(b"\n")
        if torn:
            print(f"{self.file}: the last line was cut short; it is dropped and measured again.", file=sys.stderr)
            with atomic_write(self.file) as partial:
                partial.write_bytes(whole + newline)

    def missing(self, condition: str, ids: Iterable[str]) -> list[str]:
        """The ids that have no row under a condition yet."""
        return [id for id in ids if (condition, id) not in self.rows]

    def batches(
        self, condition: str, ids: Iterable[str], size: int, key: Callable[[str], Any] = lambda id: None
    ) -> Iterator[list[str]]:
        """Batches of the missing ids, with a progress bar; the ids of a batch have the same key."""
        groups: dict[Any, list[str]] = defaultdict(list)
        missing = self.missing(condition, ids)
        for id in missing:
            groups[key(id)].append(id)
        with self.progress([condition], missing) as bar:
            bar.set_description(condition, refresh=False)
            for batch in (group[i : i + size] for group in groups.values() for i in range(0, len(group), size)):
                yield batch
                bar.update(len(batch))

    @contextmanager
    def progress(self, conditions: Iterable[str], ids: Iterable[str]) -> Iterator[tqdm]:
        """One progress bar for all that is missing under these conditions; ``batches`` inside share it."""
        if self._bar is not None:
            yield self._bar
            return
        ids = list(ids)
        missing = sum(len(self.missing(condition, ids)) for condition in conditions)
        with tqdm(total=missing, disable=not missing) as self._bar:
            try:
                yield self._bar
            finally:
                self._bar = None

    def add(self, row: AnyRow) -> None:
        """Append a row to the file."""
        append_row(self.file, to_json(asdict(row)))
        self.rows[row.condition, row.id] = row


def read_rows(file: Path, kind: Callable[..., AnyRow]) -> dict[tuple[str, str], AnyRow]:
    """The rows of a `ResultStore`'s file, without a last line that a crash cut short.

    Raises `FileError` where a line is damaged or no row of ``kind``.
    """
    return _read(file, kind)[1]


def _read(file: Path, kind: Callable[..., AnyRow]) -> tuple[dict[str, Any], dict[tuple[str, str], AnyRow]]:
    """The settings and the rows."""
    remedy = "restore it from a copy, or move it away to measure again"
    lines, rows = read_log(file, remedy), {}
    if not lines:
        raise FileError(f"{file} is empty or cut short: line 1, of settings, is missing; {remedy}.")
    for number, values in enumerate(lines[1:], 2):
        try:
            row = from_json(kind, values)
        except InputError as error:
            why = str(error).removesuffix(".")
            raise FileError(f"Line {number} of {file} is no row of this evaluation: {why}; {remedy}.") from error
        rows[row.condition, row.id] = row
    return lines[0], rows


def check_settings(file: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `InputError` naming the settings in which ``now`` differs from what the file was measured with."""
    now = _plain(now)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        what = ", ".join(f"{name} ({before.get(name)} before, {now.get(name)} now)" for name in changed)
        raise InputError(f"{file} was measured with other settings: {what}; give another --out, or move it away.")


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file."""
    return to_json(json.loads(json.dumps(settings, default=str)))


def from_json(kind: Callable[..., Value], values: dict[str, Any]) -> Value:
    """A row of the dataclass ``kind`` from its JSON object; `InputError` where that has other fields or values."""
    fields = getattr(kind, "__dataclass_fields__", {})
    try:
        return kind(**{name: _value(value, getattr(fields.get(name), "type", "")) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"A row has other fields or values than {kind.__name__} ({error}).") from error


def _value(value: Any, annotation: Any) -> Any:
    match annotation.__name__ if isinstance(annotation, type) else str(annotation):
        case "float":
            return to_float(value)
        case "dict[str, float]":
            return {name: to_float(number) for name, number in dict(value).items()}
        case "str" if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text")
    return to_float(value) if value is None else value
