"""Camera poses as numbers, and the encoder that adds them to the tokens of their frames (MemLearner, 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

POSE_VECTOR_SIZE = 12
"""Of a camera: the upper three rows of a 4×4 pose."""


class CameraEncoder(nn.Module):
    """Poses to what is added to the tokens before each self-attention: one linear layer a block, zero at the start."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(POSE_VECTOR_SIZE, dim) for _ in range(blocks))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, poses: Float[Tensor, "batch frames 12"], block: int) -> Float[Tensor, "batch frames dim"]:
        layer: Any = self.layers[block]
        return layer(poses.to(layer.weight.dtype))


def relative_pose_vectors(c2w: Float[Tensor, "*batch frames 4 4"]) -> Float[Tensor, "*batch frames 12"]:
    """Rotation and position of each frame, relative to the first frame's camera, row by row.

    Relative, so that where the world has its origin changes nothing; lengths stay in the unit of the poses.
    """
    relative = torch.linalg.inv(c2w[..., :1, :, :]) @ c2w
    return relative[..., :3, :].flatten(-2)
