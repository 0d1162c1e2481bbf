"""`PRoPE`: projective positions of cameras (Li et al., "Cameras as Relative Positional Encoding", arXiv 2507.10496).

For comparison with `PMRoPE`: nothing is learned, and scores know two cameras by P_i P_j⁻¹ alone, so no choice of the
world changes them; but a model that was trained without it starts as another model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memkit.backbones.attachment import Attachment, wans_of
from memkit.backbones.base import Positioning
from memkit.backbones.rotary import rotate
from memkit.cameras.path import CameraPath
from memkit.errors import InputError
from memkit.positions.camera_positions import CameraPositions, PositionAttachment
from memkit.positions.pm_rope import in_blocks


class PRoPE(CameraPositions):
    """On half of each head q ← Pᵀq, k ← P⁻¹k, v ← P⁻¹v and o ← P o, with P of the token's frame; on the rest, RoPE.

        with prope.attach(transformer), prope.at(CameraPath.of(cameras)):
            velocity = transformer(latents, t, text).sample

    Of the blocks of four numbers of a head, every second one leaves Wan's rotation for the cameras, so that time, rows
    and columns each keep half of their frequencies, high and low; the choice of the half is ours.
    """

    def attach(self, *transformers: nn.Module) -> Attachment:
        """Attach to each transformer until ``detach()`` or the end of the ``with``; it then runs in `at` only.

        Raises:
            InputError: no transformer, one twice, not a Wan transformer, heads that are not made of blocks of 8, or one
                that has camera positions.
        """
        models = wans_of(transformers)
        for model in models:
            if (size := model.config.attention_head_dim) % 8:
                raise InputError(f"Heads of {size} are not made of blocks of 8; PRoPE takes every other block of 4.")
        return PositionAttachment(self, models, lambda _layer: _PPositioning(self))


class _PPositioning(Positioning):
    """The positions of one layer."""

    def __init__(self, owner: PRoPE) -> None:
        self.owner = owner

    def prepare(self, block: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> CameraPath:
        """The cameras of this forward."""
        return self.owner.running(hidden, rotary)

    def enter(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], prepared: CameraPath
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Half of q and k rotated, the other half and that of v by the cameras."""
        back = prepared.unprojection
        q, k = (_joined(rotate(x, *rotary), x, m) for x, m in ((q, prepared.projection.mT), (k, back)))
        return q, k, _joined(v, v, back)

    def leave(self, attn: Any, y: Tensor, prepared: CameraPath) -> Tensor:
        """o of P_i y_i."""
        return attn.to_out[0](_joined(y, y, prepared.projection).flatten(2, 3))


def _joined(kept: Tensor, moved: Tensor, matrix: Tensor) -> Tensor:
    """Even blocks of four from ``kept``, odd ones from ``moved`` [B,S,H,D] times their frame's matrix."""
    even, odd = kept.unflatten(-1, (-1, 2, 4))[..., 0, :], moved.unflatten(-1, (-1, 2, 4))[..., 1, :]
    odd = in_blocks(odd.flatten(-2), matrix).unflatten(-1, (-1, 4)).to(kept)
    return torch.stack([even, odd], dim=-2).flatten(-3)
