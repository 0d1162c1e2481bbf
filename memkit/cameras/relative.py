"""Relative pose vectors: poses as numbers that do not depend on the origin of the world (MemLearner, 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.checks import check_rigid
from memkit.errors import InputError

POSE_VECTOR_SIZE = 12
"""Length of a camera's vector: the upper three rows of a 4×4 pose."""


def relative_pose_vectors(c2w: Float[Tensor, "*batch frames 4 4"]) -> Float[Tensor, "*batch frames 12"]:
    """Rotation and position of each frame's camera relative to the first frame's, row by row.

    Moving or turning the world changes nothing; lengths stay in the unit of the poses.

    Raises `InputError` where there is no frame, or a pose is not rigid.
    """
    check_rigid(c2w, "The poses of a clip")
    if c2w.ndim < 3 or not c2w.shape[-3]:
        raise InputError(f"Poses are {list(c2w.shape)}; give [..., frames, 4, 4] with one frame or more.")
    relative = torch.linalg.inv(c2w[..., :1, :, :]) @ c2w
    return relative[..., :3, :].flatten(-2)
