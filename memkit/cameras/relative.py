"""Relative pose vectors: poses as numbers that do not depend on the origin of the world (MemLearner, 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

POSE_VECTOR_SIZE = 12
"""Length of a camera's vector: the upper three rows of a 4×4 pose."""


def relative_pose_vectors(c2w: Float[Tensor, "*batch frames 4 4"]) -> Float[Tensor, "*batch frames 12"]:
    """Rotation and position of each frame's camera relative to the first frame's, row by row.

    Moving or turning the world changes nothing; lengths stay in the unit of the poses.
    """
    relative = torch.linalg.inv(c2w[..., :1, :, :]) @ c2w
    return relative[..., :3, :].flatten(-2)
