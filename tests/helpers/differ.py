"""Tensors that differ: assertions that NaN does not pass."""

from torch import Tensor, allclose, equal


def differ(a: Tensor, b: Tensor, **tolerance: float) -> bool:
    """Whether both are finite and not equal, or with a tolerance not close."""
    finite = bool(a.isfinite().all() and b.isfinite().all())
    return finite and not (allclose(a, b, **tolerance) if tolerance else equal(a, b))
