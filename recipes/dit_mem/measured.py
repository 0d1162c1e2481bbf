"""Clips of the laws world, generated and measured, each once: rows of a file that an interrupted evaluation goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import InputError
from memkit.metrics import measure_law
from memkit.metrics.states import frame_shares
from recipes.dit_mem.laws import constants_of, law_of


@dataclass(frozen=True)
class Row:
    """One clip: the constants it should have (``true``), those of the clips it was shown (``told``, their mean) and
    those that were ``fitted``; a fit without a value is left out. Errors are shares of the frame's width, NaN if the
    body was not found.
    """

    id: str
    condition: str
    shown: list[str]
    found: bool
    true: dict[str, float]
    told: dict[str, float]
    fitted: dict[str, float]
    path_error: float
    """Distance from the true path, whose start no caption tells."""
    law_residual: float
    """Distance from the nearest path under the true constants."""


def measure(video: UInt8[Tensor, "t h w c"], id: str, condition: str, shown: Sequence[str], fps: float) -> Row:
    """One row."""
    law = law_of(id)
    found, share = measure_law(video, law, fps), frame_shares(law)
    clips = [constants_of(law_of(clip)) for clip in shown]
    told = {name: [clip[name] for clip in clips if name in clip] for name in law.constants}
    return Row(
        id,
        condition,
        list(shown),
        found.found,
        constants_of(law),
        {name: sum(values) / len(values) for name, values in told.items() if values},
        {name: value for name, value in found.constants.items() if not math.isnan(value)},
        found.state_error * share,
        found.law_residual * share,
    )


class Kept(Protocol):
    """A dataclass whose fields are JSON; None stands for NaN."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...
    @property
    def condition(self) -> str: ...


AnyRow = TypeVar("AnyRow", bound=Kept)


class Measured(Generic[AnyRow]):
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
        rows = [kind(**{name: _number(value) for name, value in json.loads(line).items()}) for line in lines[:-1]]
        self.rows = {(row.condition, row.id): row for row in rows}
        if lines[-1]:  # cut short by a crash
            file.write_text("\n".join([before, *lines[:-1]]) + "\n")

    def missing(self, condition: str, ids: Iterable[str]) -> list[str]:
        """Those of the clips that are not there yet."""
        return [id for id in ids if (condition, id) not in self.rows]

    def add(self, row: AnyRow) -> None:
        """Keep a row."""
        with self.file.open("a") as opened:
            opened.write(json.dumps(plain(asdict(row)), ensure_ascii=False, allow_nan=False) + "\n")
        self.rows[row.condition, row.id] = row


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
