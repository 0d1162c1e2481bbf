"""The run-time type check of the tests."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
"""Checks a function's annotations at each call; as for static checkers, an int is a float."""

_SHAPE = re.compile(r"\b(Bool|Float|Int|Num|Real|Shaped|UInt)\d*\[")
_jaxtyped = jaxtyping.jaxtyped


def unchecked(function: Any) -> Any:
    """The function as users have it, without the tests' check of types."""
    return inspect.unwrap(function)


def skip_shapes_where_there_are_none() -> None:
    """Let the import hook of jaxtyping bind the sizes of axes only in calls of functions that state shapes.

    It does so in all calls otherwise, which takes a tenth of the time of the tests. Types are checked all the same.
    """
    jaxtyping.jaxtyped = _decorator


def _decorator(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    with_shapes = _jaxtyped(typechecker=typechecker)

    def decorate(thing: Any) -> Any:
        return with_shapes(thing) if inspect.isclass(thing) or _needs_shapes(thing) else typechecker(thing)

    return decorate


def _needs_shapes(thing: Any) -> bool:
    """Whether a function states shapes, or has hints that only a static type checker imports: jaxtyping skips those."""
    parts = [thing.fget, thing.fset, thing.fdel] if isinstance(thing, property) else [getattr(thing, "__func__", thing)]
    try:
        hints = [str(hint) for part in parts if part for hint in get_type_hints(part, include_extras=True).values()]
    except Exception:
        return True
    return any(_SHAPE.search(hint) for hint in hints)
