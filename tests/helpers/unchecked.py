"""Calls as users make them: the run-time type check of the tests would be faster than memkit's own checks."""

import dataclasses
import inspect
from typing import Any


def build(cls: type, **values: Any) -> Any:
    """An object of a class, whose ``__init__`` is not type-checked."""
    made = object.__new__(cls)
    inspect.unwrap(cls.__init__)(made, **values)
    return made


def changed(config: Any, **values: Any) -> Any:
    """`dataclasses.replace` without the type check."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}
    return build(type(config), **{**fields, **values})
