"""`CameraEncoder`: encodes camera poses for the tokens of their frames (MemLearner, arXiv 2606.31734, 3.3)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from memkit.cameras.relative import POSE_VECTOR_SIZE
from memkit.checks import check_whole, shown
from memkit.errors import InputError
from memkit.files.values import LARGEST_SIZE


def check_annotations(cameras: Any) -> None:
    """Raise `InputError` unless these are kinds of poses, each of which names an encoder of its own."""
    named = isinstance(cameras, tuple) and all(
        isinstance(kind, str) and kind.strip() and not set(kind) & set("./\\") for kind in cameras
    )
    if not named or not cameras or len(set(cameras)) < len(cameras):
        raise InputError(f"cameras is {shown(cameras)}; give a tuple of different names, such as ('exact',).")


class CameraEncoder(nn.Module):
    """Maps poses to vectors that are added to the tokens before each self-attention: one zero-initialised linear layer
    per block."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("blocks", blocks)):
            check_whole(name, size, 1, LARGEST_SIZE)
        self.layers = nn.ModuleList(nn.Linear(POSE_VECTOR_SIZE, dim) for _ in range(blocks))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, poses: Float[Tensor, "batch frames 12"], block: int) -> Float[Tensor, "batch frames dim"]:
        layer: Any = self.layers[block]
        return layer(poses.to(layer.weight.dtype))
