"""What the properties measure: differences, to the bit or in size, and amplitudes in decibels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal variables drawn from a seed, in float64 first: equal seeds give equal values in every dtype."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def largest(difference: Tensor) -> float:
    """The largest absolute value; 0 of an empty tensor, NaN where there is one."""
    return float(difference.detach().abs().max()) if difference.numel() else 0.0


def unequal(a: Tensor, b: Tensor) -> int:
    """In how many numbers two tensors differ, to the bit; all of them where the shapes or dtypes differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.numel(), b.numel(), 1)
    return int((a != b).sum())


def decibels(passed: float, stopped: float) -> float:
    """By how much one amplitude exceeds another, in dB; both are at least 1e-12, so two zeros give 0."""
    return 20 * math.log10(max(passed, 1e-12) / max(stopped, 1e-12))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, in shares of the largest value of ``b``; infinite for another shape."""
    return largest(a - b) / max(largest(b), 1e-6) if a.shape == b.shape else math.inf
