"""NaN and infinities, which JSON does not have, in the rows of files."""

from __future__ import annotations

import math
from typing import Any


def to_json(value: Any) -> Any:
    """A JSON value in which NaN is null, and an infinity the string "inf" or "-inf"."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def to_float(value: Any) -> float:
    """The inverse of `to_json` for one number; `ValueError` for what is none."""
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return value
