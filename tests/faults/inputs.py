"""A public call with good arguments, and values that each argument must refuse."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from tests.faults.isolated import Found, isolated, isolated_all
from tests.faults.outcomes import HANG, HARMLESS, RAW, SILENT, TYPED, UNNAMED, Result

NAN, INF = float("nan"), float("inf")
HUGE = 10**15
"""More than any machine has, of bytes, frames or pixels."""
NO_NUMBER: tuple[Any, ...] = ("3", None, [], NAN, INF)
NO_COUNT: tuple[Any, ...] = (*NO_NUMBER, 1.5, -1)
NO_POSITIVE_COUNT: tuple[Any, ...] = (*NO_COUNT, 0)
NO_RATE: tuple[Any, ...] = (*NO_NUMBER, -INF, -1.0, 0)
NO_SHARE: tuple[Any, ...] = (*NO_NUMBER, -0.5, 1.5)
NO_PATH: tuple[Any, ...] = ("/proc/nowhere/at/all", "/dev/null/x", "a\0b", "")
NO_PLACE: tuple[Any, ...] = ("/dev/null/x", "/proc/nowhere/x", "a\0b")
"""Where nobody can write, not even root."""


class Api(NamedTuple):
    """A call, the good values of its arguments, and bad values of some of them, one of which replaces the good one."""

    name: str
    call: Callable[..., object]
    good: Mapping[str, Any]
    bad: Mapping[str, Sequence[Any]]
    words: Mapping[str, Sequence[str]] = {}
    """By argument, words of which one must be in the message; by default the name of the argument."""


def results(api: Api, only: Callable[[list[Any]], list[Any]] = list) -> Iterator[Result]:
    """One result for each bad value, or for a choice of them. All are given in one process, until one ends it."""
    changes = only([(argument, value) for argument, values in api.bad.items() for value in values])
    want = isolated(partial(_call, api, {}))
    if want.value is None:
        raise RuntimeError(f"good arguments give {want}")
    found: list[Found] = []
    while len(found) < len(changes):
        found += isolated_all([partial(_call, api, {argument: value}) for argument, value in changes[len(found) :]])
    for (argument, value), each in zip(changes, found, strict=True):
        words = [argument, *api.words.get(argument, ()), *_shown(value)]
        yield Result(api.name, f"{argument} = {_short(value)}", *_judged(each, want, words))


def count(api: Api) -> int:
    return sum(map(len, api.bad.values()))


def _call(api: Api, changes: Mapping[str, Any]) -> object:
    """Values that are functions without arguments are called: they make what must not be shared."""
    os.chdir(tempfile.gettempdir())  # a path without a folder is one of a file there
    values = {**api.good, **changes}
    return api.call(**{name: value() if _makes(value) else value for name, value in values.items()})


def _makes(value: Any) -> bool:
    return inspect.isfunction(value) and value.__name__ == "<lambda>" and not inspect.signature(value).parameters


def _judged(found: Found, want: Found, words: Sequence[str]) -> tuple[str, str]:
    if found.death:
        return (HANG if found.death == "hang" else RAW), found.death
    if found.error:
        if not found.typed:
            return RAW, found.error
        message = found.error.lower().replace("_", " ")
        named = any(word.lower().replace("_", " ") in message for word in words if word)
        return (TYPED if named else UNNAMED), found.error
    return (HARMLESS if found.value == want.value else SILENT), found.said


def _shown(value: Any) -> tuple[str, ...]:
    """How a message may show a value that is short; a path may be a part of the one that it names."""
    if isinstance(value, str) and len(value) < 80:
        return (value or "''", repr(value))
    text = repr(value)
    return (text,) if isinstance(value, int | float | None | tuple | list) and len(text) < 80 else ()


def _short(value: Any) -> str:
    """A value as the table of results shows it."""
    if _makes(value):
        return inspect.getsource(value).strip()[:80]
    if isinstance(value, torch.Tensor):
        odd = "" if value.is_meta or value.is_sparse or value.isfinite().all() else ", not finite"
        return f"tensor {list(value.shape)} {value.dtype}{odd}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name!r}: {_short(item)}' for name, item in value.items())}}}"[:80]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"[:80]
    return repr(value).replace("\n", " ")[:80]
