"""Values of a configuration, as JSON gives them: of the types that a signature states, and numbers in range."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union

from memkit.checks import shown
from memkit.errors import InputError

LARGEST_SIZE = 1 << 16
"""The largest width, number of layers or number of channels of a part; more is a slip or damage."""


def fits(value: object, hint: Any) -> bool:
    """Whether a value from JSON has a type: ints are no bools, floats may be ints, lists stand for tuples, no NaN."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (None, types.NoneType):
        return value is None
    if origin is float:
        return type(value) in (int, float) and not math.isnan(value)  # type: ignore[arg-type]
    if origin in (int, str, bool, dict):
        return type(value) is origin
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and inner and inner[-1] is not ...:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return not inner or all(fits(each, inner[0]) for each in value)
    return True


def hints_of(thing: Any) -> dict[str, Any]:
    """The types of a class's fields or a function's arguments; empty where they cannot be found out."""
    try:
        return typing.get_type_hints(thing)
    except Exception:  # names that only a type checker imports
        return {}


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any], where: str, remedy: str) -> None:
    """Raise `InputError` where a value is not of the type that the hint of its name states."""
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise InputError(f"{where} has {name} = {shown(value)}, which is no {_name(hints[name])}; {remedy}.")


def is_count(value: object, most: int = LARGEST_SIZE) -> bool:
    """Whether this is a whole number of 1 to ``most``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= most


def in_range(value: object, above: float = -math.inf, most: float = math.inf) -> bool:
    """Whether this is a number, not NaN, that is greater than ``above`` and at most ``most``."""
    return isinstance(value, Real) and not isinstance(value, bool) and above < value <= most  # type: ignore[operator]


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
