"""The run-time type check of the tests."""

import inspect
from typing import Any

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks a function's annotations at each call; as for static checkers, an int is a float."""


def unchecked(function: Any) -> Any:
    """The function as users have it, without the tests' check of types."""
    return inspect.unwrap(function)
