"""The arguments of a transformer's forward by name, for its hooks."""

from __future__ import annotations

from inspect import signature
from typing import Any

from diffusers import WanTransformer3DModel

_NAMES = tuple(signature(WanTransformer3DModel.forward).parameters)[1:]


def call_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of `WanTransformer3DModel.forward` by name, whether passed by position or by keyword."""
    return {**dict(zip(_NAMES, args, strict=False)), **kwargs}
