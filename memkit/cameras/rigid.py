"""The one check that poses are rigid transforms."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.errors import InputError

ROTATION_TOLERANCE = 1e-3
"""How far any element of R Rᵀ may be from the identity. Rotations rounded to fp16 stay below it (an element is off by
2⁻¹² at most), a scale of 1.001 does not."""


def check_rigid(c2w: Float[Tensor, "*batch 4 4"], name: str) -> None:
    """Raises `InputError` unless every pose is a finite rotation and translation; ``name`` begins the message."""
    poses = c2w.double()
    rotation, last = poses[..., :3, :3], torch.tensor([0.0, 0.0, 0.0, 1.0]).to(poses)
    off = (rotation @ rotation.mT - torch.eye(3).to(poses)).abs().amax(dim=(-2, -1))
    good = poses.isfinite().all(dim=-1).all(dim=-1) & (off <= ROTATION_TOLERANCE) & (torch.linalg.det(rotation) > 0)
    good &= (poses[..., 3, :] == last).all(dim=-1)
    if not bool(good.all()):
        index = (~good).nonzero()[0].tolist()
        where = f"pose {index[0] if len(index) == 1 else index}" if index else "the pose"
        raise InputError(
            f"{name}: {where} is not a rigid transform; give finite matrices whose rotations are orthonormal "
            f"(to {ROTATION_TOLERANCE}) with determinant +1, the last row 0 0 0 1."
        )
