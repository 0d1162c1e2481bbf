"""`PRoPE`: projective camera positions (Li et al., "Cameras as Relative Positional Encoding", arXiv 2507.10496).

For comparison with `PMRoPE`: it has no parameters, and attention depends on two cameras only through P_i P_j⁻¹, so it
is invariant to the choice of world coordinates; but it changes the outputs of a model that was trained without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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


@dataclass(frozen=True)
class PRoPE:
    """On half of each head, q ← Pᵀq, k ← P⁻¹k, v ← P⁻¹v and o ← P o with P of the token's frame; RoPE on the rest.

        with prope.attach(transformer) as attached, attached.chunk(CameraPath.of(cameras)):
            velocity = transformer(latents, t, text).sample

    Every second block of four channels of a head is used for cameras instead of Wan's rotation, so that time, rows and
    columns each keep half of their frequencies, both high and low ones; which half is our choice. By default, values
    are not rotated and the principal point is dropped, as in ReMind (arXiv 2605.25333), so that a pretrained Wan, whose
    values are never rotated, changes as little as it can, and a change of crop does not change attention.
    """

    rotate_values: bool = False
    """On the rest of each head, rotate values as keys are, and outputs back, as the authors of PRoPE do."""
    principal_point: bool = False
    """Keep the principal point in P, as the authors of PRoPE do; here measured from the middle of the image, so that
    centred cameras are the same (our reading)."""

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
        return AttachedCameras(self, transformers, lambda _layer: _PPositioning(self))


class _Position(NamedTuple):
    """What a layer needs of one forward pass: P and its inverse [B or 1,F,4,4], and the rotary tables."""

    projection: Tensor
    inverse: Tensor
    rotary: tuple[Tensor, Tensor]


class _PPositioning(Positioning):
    """The camera positions of one layer."""

    def __init__(self, owner: PRoPE) -> None:
        self.owner = owner

    def position(self, hidden: Tensor, carrier: Carrier) -> _Position:
        """The matrices of this forward pass's cameras."""
        return self.at(cameras_of(hidden, carrier), carrier.rotary)

    def at(self, path: CameraPath, rotary: tuple[Tensor, Tensor]) -> _Position:
        """The matrices of these cameras."""
        p, inverse = path.projection, path.unprojection
        if self.owner.principal_point and path.centre is not None:
            cx, cy = path.centre[..., None].unbind(-2)  # K = [fx 0 cx; 0 fy cy; 0 0 1], whose diagonal P has already
            across, down, ahead, rest = p.unbind(-2)
            p = torch.stack([across + cx * ahead, down + cy * ahead, ahead, rest], dim=-2)
            x, y, z, t = inverse.unbind(-1)
            inverse = torch.stack([x, y, z - cx * x - cy * y, t], dim=-1)
        return _Position(p, inverse, rotary)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: _Position
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half of q and k rotated by Wan's tables; the other half, and half of v, multiplied by camera matrices."""
        p, inverse, _ = position
        q, k = (_joined(rotate(x, *rotary), x, m) for x, m in ((q, p.mT), (k, inverse)))
        return q, k, _joined(rotate(v, *rotary) if self.owner.rotate_values else v, v, inverse)

    def leave(self, y: Tensor, project: Callable[[Tensor], Tensor], position: _Position) -> Tensor:
        """The output o(y_i), with half of y_i multiplied by P_i."""
        cos, sin = position.rotary
        rest = rotate(y, cos, -sin) if self.owner.rotate_values else y
        return project(_joined(rest, y, position.projection))


def _joined(rotated: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """Even blocks of four channels from ``rotated`` [B,S,H,D], odd ones from ``x`` times the matrix of their frame."""
    even, odd = rotated.unflatten(-1, (-1, 2, 4))[..., 0, :], x.unflatten(-1, (-1, 2, 4))[..., 1, :]
    odd = in_blocks(odd.flatten(-2), matrix).unflatten(-1, (-1, 4)).to(rotated)
    return torch.stack([even, odd], dim=-2).flatten(-3)
