"""`FrameChunk`: the context frames of a `FrameContext` while a chunk is generated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memkit.backbones.running import Running
from memkit.backbones.samples import several_videos
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.injectors.frame_context.packing import Plan


@dataclass(frozen=True)
class ChunkInputs:
    """The arguments of a chunk; those of the context only for the frames that the packing keeps."""

    context: Tensor | None
    plan: Plan
    positions: tuple[int, ...] | None
    context_positions: tuple[int, ...]
    poses: Tensor | None
    context_poses: Tensor | None
    kind: str
    timesteps: Tensor | None
    guidance: float
    noise: Tensor | None = None
    """What stands in place of the context in v(∅), at the noisiest timestep; None for no context at all."""

    def without(self) -> ChunkInputs:
        """The arguments with noise in place of the context."""
        assert self.noise is not None
        times = torch.full((1, self.noise.shape[2]), float(NUM_TRAIN_TIMESTEPS))
        return replace(self, context=self.noise, timesteps=times)


@dataclass(frozen=True)
class Pass:
    """One forward pass of a transformer."""

    inputs: ChunkInputs
    counts: tuple[int, ...]
    """Number of tokens of each group of the context; empty in a forward pass without context."""


class FrameChunk:
    """The context of the transformers while it is open; created by `AttachedFrames.chunk`.

    ``left_out`` is the number of context frames beyond the capacity of the packing: the oldest ones, except the first
    frame with ``keep_start``.
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
    """Raise `InputError` unless the arguments of a chunk fit the latents of P [B,C,F,H,W]."""
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
            "give one context for all samples or one per sample, of the same channels and size."
            + several_videos(context.shape[0], x.shape[0], "give latents.repeat_interleave({n}, dim=0)")
        )
    for name, value in (("poses", inputs.poses), ("poses", inputs.context_poses), ("timesteps", inputs.timesteps)):
        if value is not None and value.shape[0] not in rows:
            raise InputError(
                f"There are {name} of {value.shape[0]} clips for a batch of {x.shape[0]}; give one clip for all "
                "samples, or one per sample."
            )
