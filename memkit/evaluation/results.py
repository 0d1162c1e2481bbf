"""Measured rows in a file to which an interrupted evaluation adds what is missing."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from tqdm import tqdm

from memkit.errors import InputError
from memkit.files.atomic import atomic_write


@runtime_checkable
class Row(Protocol):
    """A dataclass whose fields can be written as JSON. NaN is written as null."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...
    @property
    def condition(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=Row)
Value = TypeVar("Value")


class ResultStore(Generic[AnyRow]):
    """The rows of a JSONL file, by condition and id. Its first line holds the settings they were measured with.

    Raises `InputError` if the file was measured with other settings: it is never overwritten.
    """

    def __init__(self, file: Path, settings: dict[str, Any], kind: Callable[..., AnyRow]) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(json.loads(json.dumps(settings, default=str)), ensure_ascii=False) + "\n")
        first, *lines = file.read_text().split("\n")
        check_settings(file, json.loads(first), settings)
        self.rows = read_rows(file, kind)
        if lines[-1]:  # the last line was cut short by a crash
            with atomic_write(file) as partial:
                partial.write_text("\n".join([first, *lines[:-1]]) + "\n")

    def missing(self, condition: str, ids: Iterable[str]) -> list[str]:
        """The ids that have no row under a condition yet."""
        return [id for id in ids if (condition, id) not in self.rows]

    def batches(
        self, condition: str, ids: Iterable[str], size: int, key: Callable[[str], Any] = lambda id: None
    ) -> Iterator[list[str]]:
        """Batches of the missing ids, with a progress bar; the ids of a batch have the same key."""
        groups: dict[Any, list[str]] = defaultdict(list)
        for id in (missing := self.missing(condition, ids)):
            groups[key(id)].append(id)
        with tqdm(total=len(missing), desc=condition, disable=not missing) as bar:
            for batch in (group[i : i + size] for group in groups.values() for i in range(0, len(group), size)):
                yield batch
                bar.update(len(batch))

    def add(self, row: AnyRow) -> None:
        """Append a row to the file."""
        with self.file.open("a") as opened:
            opened.write(json.dumps(to_json(asdict(row)), ensure_ascii=False, allow_nan=False) + "\n")
        self.rows[row.condition, row.id] = row


def read_rows(file: Path, kind: Callable[..., AnyRow]) -> dict[tuple[str, str], AnyRow]:
    """The rows of a `ResultStore`'s file, without a last line that a crash cut short."""
    lines = file.read_text().split("\n")[1:-1]
    rows = [from_json(kind, json.loads(line)) for line in lines]
    return {(row.condition, row.id): row for row in rows}


def check_settings(file: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `InputError` naming the settings in which ``now`` differs from what the file was measured with."""
    now = json.loads(json.dumps(now, default=str))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        what = ", ".join(f"{name} ({before.get(name)} before, {now.get(name)} now)" for name in changed)
        raise InputError(f"{file} was measured with other settings: {what}; give another --out, or move it away.")


def from_json(kind: Callable[..., Value], values: dict[str, Any]) -> Value:
    """A row of the dataclass ``kind`` from its JSON object."""
    return kind(**{name: math.nan if value is None else value for name, value in values.items()})


def to_json(value: Any) -> Any:
    """A JSON value in which NaN is null."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
