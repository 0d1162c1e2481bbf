"""`TokenPositions`: tokens at the place of other tokens of their frame, by the model's own rotary tables.

DiTraj (Wan2.1 and CogVideoX, training-free) gives the tokens of a moving object the rows and columns that they have in
an anchor frame, so that attention takes them for one place; positions in time stay. Nothing is computed anew: each
token takes the row of the table of another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from memkit.backbones.attached import Attached
from memkit.backbones.base import TOKEN_POSITIONS, Carrier
from memkit.backbones.protocol import Grid, Model
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.checks import check_list, check_whole, has_values, shown
from memkit.errors import InputError

Box = tuple[int, int, int, int]
"""Row, column, height and width in tokens."""


class TokenPositions:
    """Positions of the tokens of each frame.

        boxes = [(0, t, 2, 2) for t in range(5)]  # a box of 2×2 tokens that moves to the right
        with TokenPositions(moved_box(boxes, height=4, width=8)).attach(transformer):
            velocity = transformer(latents, t, text).sample

    Args:
        index: number of the token, counted row by row within a frame, whose place each token takes. Where every token
            has its own number, the outputs are those of the model, bit for bit.
    """

    def __init__(self, index: Int[Tensor, "frames tokens"]) -> None:
        if not isinstance(index, Tensor) or index.ndim != 2 or index.dtype != torch.long:
            raise InputError(f"The index is {shown(index)}; give whole numbers [frames, tokens], int64.")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < index.shape[1]:
            raise InputError(f"The index names tokens beyond the {index.shape[1]} of a frame; give 0 to one less.")
        self.index = index

    def attach(self, *models: Attachable) -> Attached:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement. Attach it after what places frames in time, such as a `KVCache`.

        Raises:
            InputError: there is no transformer, or one is repeated; and from the call: another number of frames or
                tokens, or a model without rotary tables for all of them.
        """
        return _AttachedPositions(self, transformers_of(models, TOKEN_POSITIONS))


def moved_box(boxes: Sequence[Box], height: int, width: int, anchor: int = 0) -> Int[Tensor, "frames tokens"]:
    """The index in which the tokens of each frame's box take the place that they have in the box of frame ``anchor``.

    Raises `InputError` for boxes that differ in size or leave the frame of ``height`` × ``width`` tokens.
    """
    boxes = check_list("boxes", boxes, "(row, column, height, width), one per frame")
    check_whole("anchor", anchor, 0, len(boxes) - 1)
    own = torch.arange(height * width).view(height, width)
    index = own.repeat(len(boxes), 1, 1)
    row, column, *size = boxes[anchor]
    for frame, (y, x, h, w) in enumerate(boxes):
        if [h, w] != size or not (0 <= y <= height - h and 0 <= x <= width - w and h > 0 and w > 0):
            raise InputError(
                f"The box of frame {frame} is {(y, x, h, w)}; give one of {size[0]}×{size[1]} tokens, as that of frame "
                f"{anchor}, within {height}×{width}."
            )
        index[frame, y : y + h, x : x + w] = own[row : row + h, column : column + w]
    return index.flatten(1)


class _AttachedPositions(Attached):
    kind = TOKEN_POSITIONS
    needs_frames = True
    owner: TokenPositions

    def rotary(self, model: Model, grid: Grid | None, carrier: Carrier) -> Carrier:
        """The tables with the rows that the index names."""
        assert grid is not None
        wanted, index = (grid.frames, grid.tokens_per_frame), self.owner.index
        if tuple(index.shape) != wanted or carrier.cos is None or carrier.cos.shape[1] != index.numel():
            raise InputError(
                f"Token positions are for {list(index.shape)} frames and tokens, the call has {list(wanted)}; give one "
                "number per token, and detach what adds other tokens to the sequence."
            )
        rows = (torch.arange(len(index))[:, None] * index.shape[1] + index).flatten().to(carrier.cos.device)
        assert carrier.sin is not None
        if has_values(carrier.sin) and not carrier.sin.any():
            raise InputError("This call has no rotary tables, so tokens have no positions there to be moved.")
        return carrier._replace(cos=carrier.cos[:, rows], sin=carrier.sin[:, rows])
