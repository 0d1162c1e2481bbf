"""A transformer's call as its hooks see it: by the names of its arguments."""

from __future__ import annotations

from inspect import signature
from typing import Any

from diffusers import WanTransformer3DModel

_NAMES = tuple(signature(WanTransformer3DModel.forward).parameters)[1:]


def call_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All by name, whether the caller gave them by name or by place."""
    return {**dict(zip(_NAMES, args, strict=False)), **kwargs}
