"""What was measured, each thing once: rows of a file that an interrupted evaluation goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from memkit.errors import InputError
from memkit.files import atomic_write


class Kept(Protocol):
    """A dataclass whose fields are JSON; None stands for NaN."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...
    @property
    def condition(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=Kept)


class ResultStore(Generic[AnyRow]):
    """The rows of a file, by condition and id; the first line says what they were made with.

    Raises `InputError` for a file of another making: what was measured is never overwritten.
    """

    def __init__(self, file: Path, made_with: dict[str, Any], kind: type[AnyRow]) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        head = json.loads(json.dumps(made_with, default=str))
        if not file.exists():
            file.write_text(json.dumps(head, ensure_ascii=False) + "\n")
        before, *lines = file.read_text().split("\n")
        known = json.loads(before)
        changed = [name for name in {**known, **head} if known.get(name) != head.get(name)]
        if changed:
            what = ", ".join(f"{name} ({known.get(name)} before, {head.get(name)} now)" for name in changed)
            raise InputError(f"{file} was measured with other settings: {what}; give another --out, or move it away.")
        self.rows = read_rows(file, kind)
        if lines[-1]:  # cut short by a crash
            with atomic_write(file) as partial:
                partial.write_text("\n".join([before, *lines[:-1]]) + "\n")

    def missing(self, condition: str, ids: Iterable[str]) -> list[str]:
        """Those of the clips that are not there yet."""
        return [id for id in ids if (condition, id) not in self.rows]

    def add(self, row: AnyRow) -> None:
        """Keep a row."""
        with self.file.open("a") as opened:
            opened.write(json.dumps(plain(asdict(row)), ensure_ascii=False, allow_nan=False) + "\n")
        self.rows[row.condition, row.id] = row


def read_rows(file: Path, kind: type[AnyRow]) -> dict[tuple[str, str], AnyRow]:
    """What a file of `Measured` holds; a line that a crash cut short is not among it."""
    lines = file.read_text().split("\n")[1:-1]
    rows = [kind(**{name: _number(value) for name, value in json.loads(line).items()}) for line in lines]
    return {(row.condition, row.id): row for row in rows}


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
