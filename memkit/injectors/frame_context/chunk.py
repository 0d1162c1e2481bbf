"""What `FrameContext` shows while a chunk is made: frames of the past, those that the packing keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from memkit.errors import InputError, MemkitError
from memkit.injectors.frame_context.packing import Plan

if TYPE_CHECKING:
    from memkit.injectors.frame_context.attachment import FrameAttachment


@dataclass(frozen=True)
class ChunkInputs:
    """The arguments of a chunk; of the context, the frames that the packing keeps."""

    context: Tensor | None
    plan: Plan
    positions: tuple[int, ...] | None
    context_positions: tuple[int, ...]
    poses: Tensor | None
    context_poses: Tensor | None
    kind: str
    timesteps: Tensor | None
    guidance: float | int


@dataclass(frozen=True)
class Pass:
    """One forward of a transformer."""

    given: ChunkInputs
    counts: tuple[int, ...]
    """Tokens of each group of the context; none in a forward without it."""


class FrameChunk:
    """The context that the transformers see while it is open; made by `FrameAttachment.chunk`.

    ``left_out`` is how many context frames the packing had no room for: the oldest, but for a start frame kept.
    """

    def __init__(self, attachment: FrameAttachment, given: ChunkInputs, left_out: int) -> None:
        self.given = given
        self.left_out = left_out
        self._attachment = attachment

    def __enter__(self) -> FrameChunk:
        if self._attachment.open is not None:
            raise MemkitError("The transformers are in a chunk already; chunks do not nest.")
        self._attachment.open = self
        return self

    def __exit__(self, *_: object) -> None:
        self._attachment.close()


def check_fit(given: ChunkInputs, x: Tensor) -> None:
    """Raises `InputError` where the arguments of a chunk do not fit the latents of P [B,C,F,H,W]."""
    rows, frames, context = (1, x.shape[0]), x.shape[2], given.context
    counts = [len(given.positions)] if given.positions is not None else []
    counts += [given.poses.shape[1]] if given.poses is not None else []
    if any(n != frames for n in counts):
        raise InputError(f"The prediction has {frames} frames; give one position and, if any, one pose for each.")
    if context is not None and (
        context.shape[0] not in rows or context.shape[1] != x.shape[1] or context.shape[3:] != x.shape[3:]
    ):
        raise InputError(
            f"The context has latents {list(context.shape)}, the prediction {list(x.shape)}; "
            "give one row or one a sample, of the same channels and size."
        )
    for name, value in (("poses", given.poses), ("poses", given.context_poses), ("timesteps", given.timesteps)):
        if value is not None and value.shape[0] not in rows:
            raise InputError(
                f"There are {name} of {value.shape[0]} clips for a batch of {x.shape[0]}; give one or all."
            )
