"""`PRoPE`: projective positions of cameras (Li et al., "Cameras as Relative Positional Encoding", arXiv 2507.10496).

For comparison with `PMRoPE`: nothing is learned, and scores know two cameras by P_i P_j⁻¹ alone, so no choice of the
world changes them; but a model that was trained without it starts as another model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memkit.backbones.base import Carrier, Positioning
from memkit.backbones.rotary import rotate
from memkit.backbones.unwrap import Attachable, wans_of
from memkit.cameras.path import CameraPath
from memkit.errors import InputError
from memkit.positions.attachment import AttachedCameras, cameras_of
from memkit.positions.pm_rope import in_blocks


class PRoPE:
    """On half of each head q ← Pᵀq, k ← P⁻¹k, v ← P⁻¹v and o ← P o, with P of the token's frame; on the rest, RoPE.

        with prope.attach(transformer) as attached, attached.chunk(CameraPath.of(cameras)):
            velocity = transformer(latents, t, text).sample

    Of the blocks of four numbers of a head, every second one leaves Wan's rotation for the cameras, so that time, rows
    and columns each keep half of their frequencies, high and low; the choice of the half is ours.
    """

    def attach(self, *models: Attachable) -> AttachedCameras:
        """Attach to each transformer until ``detach()`` or the end of the ``with``; it then runs in
        `AttachedCameras.chunk` only.

        Raises:
            InputError: no transformer, one twice, not a Wan transformer, heads that are not made of blocks of 8, or one
                that has camera positions.
        """
        transformers = wans_of(models)
        for model in transformers:
            if (size := model.config.attention_head_dim) % 8:
                raise InputError(f"Heads of {size} are not made of blocks of 8; PRoPE takes every other block of 4.")
        return AttachedCameras(self, transformers, lambda _layer: _PPositioning())


class _PPositioning(Positioning):
    """The positions of one layer."""

    def position(self, hidden: Tensor, carrier: Carrier) -> CameraPath:
        """The cameras of this forward."""
        return cameras_of(hidden, carrier)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], position: CameraPath
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half of q and k rotated, the other half and that of v by the cameras."""
        back = position.unprojection
        q, k = (_joined(rotate(x, *rotary), x, m) for x, m in ((q, position.projection.mT), (k, back)))
        return q, k, _joined(v, v, back)

    def leave(self, attn: Any, y: Tensor, position: CameraPath) -> Tensor:
        """o of P_i y_i."""
        return attn.to_out[0](_joined(y, y, position.projection).flatten(2, 3))


def _joined(kept: Tensor, moved: Tensor, matrix: Tensor) -> Tensor:
    """Even blocks of four from ``kept``, odd ones from ``moved`` [B,S,H,D] times their frame's matrix."""
    even, odd = kept.unflatten(-1, (-1, 2, 4))[..., 0, :], moved.unflatten(-1, (-1, 2, 4))[..., 1, :]
    odd = in_blocks(odd.flatten(-2), matrix).unflatten(-1, (-1, 4)).to(kept)
    return torch.stack([even, odd], dim=-2).flatten(-3)
