"""How objects show themselves: one line as text, and in a notebook a table where it helps.

Values of tensors are never printed, only their shapes: an object on a GPU is not waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands that print sizes do not wait for torch
    from torch import Tensor, nn

MOST_ROWS = 10
"""Rows of a table; of more, only the number is stated."""
_LONGEST = 200  # characters of a cell
_CELL = "text-align:left;vertical-align:top;padding:2px 8px"


def described(self: object, *facts: str) -> str:
    """The line of an object: its class and some facts, of which empty ones are left out."""
    return f"{type(self).__name__}({', '.join(filter(None, facts))})"


def with_shapes(self: Any) -> str:
    """The ``__repr__`` of a dataclass or named tuple: its fields, of tensors the shapes; those that are None are left
    out."""
    names = self._fields if isinstance(self, tuple) else self.__dataclass_fields__
    values = {name: getattr(self, name) for name in names}
    return described(self, *(f"{name}={_short(value)}" for name, value in values.items() if value is not None))


def changed_fields(config: Any) -> str:
    """The fields of a dataclass that differ from their defaults or have none, and "…" for the others."""
    shown = [f for f in fields(config) if f.default is MISSING or getattr(config, f.name) != f.default]
    texts = [f"{f.name}={getattr(config, f.name)!r}" for f in shown]
    return ", ".join([*texts, "…"] if len(texts) < len(fields(config)) else texts)


def shape_of(x: Tensor) -> str:
    """Shape and dtype: "[1, 20, 192] float32"."""
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def parameters_of(module: nn.Module) -> str:
    """The number of parameters of a module: "5.2 M parameters"."""
    count = sum(parameter.numel() for parameter in module.parameters())
    for unit, size in ((" B", 10**9), (" M", 10**6), (" k", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit} parameters"
    return "1 parameter" if count == 1 else f"{count} parameters"


def size_of(nbytes: int) -> str:
    """A number of bytes in the unit that suits it: "287.5 MB"."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes} B"


def counted(count: int, thing: str, things: str | None = None) -> str:
    """A number of things: "1 frame", "3 frames"; ``things`` is the plural, where it does not end in s alone."""
    return f"{count:,} {thing if count == 1 else things or f'{thing}s'}"


def listed(numbers: Sequence[int]) -> str:
    """Whole numbers in ascending order, cut to five: "0…5" where none is missing between, "0, 3, …, 90" else."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}…{numbers[-1]}"
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 5 else [*shown[:4], "…", shown[-1]])


def html_table(caption: str, heading: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0) -> str:
    """A table in plain HTML, all texts escaped. ``more`` is the number of rows that are not shown."""
    lines = [f"<caption style='text-align:left;caption-side:top'>{escape(caption)}</caption>"]
    lines += [f"<tr>{''.join(f'<th style={_CELL!r}>{escape(name)}</th>' for name in heading)}</tr>"]
    lines += [f"<tr>{''.join(f'<td style={_CELL!r}>{escape(_cut(cell))}</td>' for cell in row)}</tr>" for row in rows]
    if more:
        lines.append(f"<tr><td style={_CELL!r} colspan='{len(heading)}'>… and {more:,} more</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def _cut(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _short(value: Any) -> str:
    from torch import Tensor, nn

    if isinstance(value, Tensor):
        return shape_of(value)
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} of {parameters_of(value)}"
    text = repr(value)
    if len(text) <= 60:
        return text
    if isinstance(value, list | tuple | dict | range):
        return f"{type(value).__name__} of {len(value)}"
    return f"{text[:57]}..." if isinstance(value, str | bytes | float | int) else text
