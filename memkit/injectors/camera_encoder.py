"""`CameraEncoder`: encodes camera poses for the tokens of their frames (MemLearner, arXiv 2606.31734, 3.3)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from memkit.cameras.relative import POSE_VECTOR_SIZE


class CameraEncoder(nn.Module):
    """Maps poses to vectors that are added to the tokens before each self-attention: one zero-initialised linear layer
    per block."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(POSE_VECTOR_SIZE, dim) for _ in range(blocks))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, poses: Float[Tensor, "batch frames 12"], block: int) -> Float[Tensor, "batch frames dim"]:
        layer: Any = self.layers[block]
        return layer(poses.to(layer.weight.dtype))
