"""Depth as all retrievers take it: metres along the ray of each pixel, inf where there is no surface."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from memkit.checks import shown
from memkit.errors import InputError


def check_depth(depth: Any, count: int) -> None:
    """Raises `InputError` unless ``depth`` is [H, W] for each of ``count`` cameras, at least 0, inf for the sky."""
    if not isinstance(depth, Tensor) or not depth.is_floating_point():
        raise InputError(f"Depth is {shown(depth)}; give a floating-point tensor of metres along the rays.")
    if depth.ndim != 3 or len(depth) != count or not depth.numel() and count:
        raise InputError(f"Depth is {tuple(depth.shape)}; give [H, W] for each of {count} cameras.")
    if not bool((depth >= 0).all()):
        raise InputError("Depth has NaN or values below 0; give metres along the ray, inf for the sky.")
