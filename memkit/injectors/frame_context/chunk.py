"""What `FrameContext` shows while a chunk is generated: frames of the past, those that the packing keeps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from memkit.backbones.attached import Running
from memkit.errors import InputError
from memkit.injectors.frame_context.packing import Plan


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
    guidance: float


@dataclass(frozen=True)
class Pass:
    """One forward of a transformer."""

    inputs: ChunkInputs
    counts: tuple[int, ...]
    """Tokens of each group of the context; none in a forward without it."""


class FrameChunk:
    """The context that the transformers see while it is open; made by `AttachedFrames.chunk`.

    ``left_out`` is how many context frames the packing had no room for: the oldest, but for a start frame kept.
    """

    def __init__(self, running: Running[FrameChunk], inputs: ChunkInputs, left_out: int) -> None:
        self.inputs = inputs
        self.left_out = left_out
        self._running = running

    def __enter__(self) -> FrameChunk:
        self._running.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.leave()


def check_fit(inputs: ChunkInputs, x: Tensor) -> None:
    """Raises `InputError` where the arguments of a chunk do not fit the latents of P [B,C,F,H,W]."""
    rows, frames, context = (1, x.shape[0]), x.shape[2], inputs.context
    counts = [len(inputs.positions)] if inputs.positions is not None else []
    counts += [inputs.poses.shape[1]] if inputs.poses is not None else []
    if any(n != frames for n in counts):
        raise InputError(f"The prediction has {frames} frames; give one position and, if any, one pose for each.")
    if context is not None and (
        context.shape[0] not in rows or context.shape[1] != x.shape[1] or context.shape[3:] != x.shape[3:]
    ):
        raise InputError(
            f"The context has latents {list(context.shape)}, the prediction {list(x.shape)}; "
            "give one row or one a sample, of the same channels and size."
        )
    for name, value in (("poses", inputs.poses), ("poses", inputs.context_poses), ("timesteps", inputs.timesteps)):
        if value is not None and value.shape[0] not in rows:
            raise InputError(
                f"There are {name} of {value.shape[0]} clips for a batch of {x.shape[0]}; give one or all."
            )
