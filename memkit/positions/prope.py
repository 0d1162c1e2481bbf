"""`PRoPE`: projective camera positions (Li et al., "Cameras as Relative Positional Encoding", arXiv 2507.10496).

For comparison with `PMRoPE`: it has no parameters, and attention depends on two cameras only through P_i P_j⁻¹, so it
is invariant to the choice of world coordinates; but it changes the outputs of a model that was trained without it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import CAMERA_POSITIONS, Carrier, Positioning
from memkit.backbones.rotary import rotate
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.cameras.path import CameraPath
from memkit.errors import InputError
from memkit.positions.attachment import AttachedCameras, cameras_of
from memkit.positions.pm_rope import in_blocks


class PRoPE:
    """On half of each head, q ← Pᵀq, k ← P⁻¹k, v ← P⁻¹v and o ← P o with P of the token's frame; RoPE on the rest.

        with prope.attach(transformer) as attached, attached.chunk(CameraPath.of(cameras)):
            velocity = transformer(latents, t, text).sample

    Every second block of four channels of a head is used for cameras instead of Wan's rotation, so that time, rows and
    columns each keep half of their frequencies, both high and low ones; which half is our choice.
    """

    def attach(self, *models: Attachable) -> AttachedCameras:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        While attached, a transformer runs only inside `AttachedCameras.chunk`.

        Raises:
            InputError: no transformer is given, one is repeated, has heads whose width is not a multiple of 8, cannot
                have camera positions or already has them.
        """
        transformers = transformers_of(models, CAMERA_POSITIONS)
        for model in transformers:
            if (size := adapter_of(model).sizes(model).head_dim) % 8:
                raise InputError(
                    f"Attention heads of width {size} do not divide into the blocks of 8 that PRoPE needs; use PMRoPE, "
                    "which needs blocks of 4."
                )
        return AttachedCameras(self, transformers, lambda _layer: _PPositioning())


class _PPositioning(Positioning):
    """The camera positions of one layer."""

    def position(self, hidden: Tensor, carrier: Carrier) -> CameraPath:
        """The cameras of this forward pass."""
        return cameras_of(hidden, carrier)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: CameraPath
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half of q and k rotated by Wan's tables; the other half, and half of v, multiplied by camera matrices."""
        inverse = position.unprojection
        q, k = (_joined(rotate(x, *rotary), x, m) for x, m in ((q, position.projection.mT), (k, inverse)))
        return q, k, _joined(v, v, inverse)

    def leave(self, y: Tensor, project: Callable[[Tensor], Tensor], position: CameraPath) -> Tensor:
        """The output o(y_i), with half of y_i multiplied by P_i."""
        return project(_joined(y, y, position.projection))


def _joined(rotated: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """Even blocks of four channels from ``rotated`` [B,S,H,D], odd ones from ``x`` times the matrix of their frame."""
    even, odd = rotated.unflatten(-1, (-1, 2, 4))[..., 0, :], x.unflatten(-1, (-1, 2, 4))[..., 1, :]
    odd = in_blocks(odd.flatten(-2), matrix).unflatten(-1, (-1, 4)).to(rotated)
    return torch.stack([even, odd], dim=-2).flatten(-3)
