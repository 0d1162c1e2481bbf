"""`EchoContext`: long videos by Echo-Memory (arXiv 2606.09803), each chunk with single frames of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from memkit.cameras.cameras import Cameras
from memkit.cameras.echo_poses import Forward, to_echo_poses
from memkit.checks import MOST_FRAMES, check_fields
from memkit.errors import InputError
from memkit.injectors.echo_memory.module import EchoMemory
from memkit.rollout.base import ChunkInputs, ContextMethod
from memkit.rollout.frames import Selection
from memkit.rollout.history import History


@dataclass(frozen=True)
class EchoLayout:
    """Which frames a chunk sees, and in which unit their poses are. Positions per metre are our reading: the authors'
    data set is in centimetres, of which target frames of some rows have a hundredth."""

    frames: int
    """Number of context frames: the newest ones, or as many as there are."""
    skip: int = 0
    """Number of the newest frames that are left out, if there are others: the video goes on from the last of them."""
    target_scale: float = 1.0
    """Positions of the target frames per metre."""
    context_scale: float = 100.0
    """Positions of the context frames per metre."""
    context_poses: Literal["relative", "identity", "zero"] = "relative"
    """Poses of context frames: relative to the first target frame, all the same as that, or rows of zeros."""
    forward: Forward = "x"
    """See `memkit.cameras.echo_poses`."""

    def __post_init__(self) -> None:
        scales = (1e-6, 1e6)
        check_fields(self, frames=(1, MOST_FRAMES), target_scale=scales, context_scale=scales)


LAYOUTS = {
    "context_k1": EchoLayout(frames=1, context_poses="identity"),
    "framepack_len_r8": EchoLayout(frames=81),
    "block_wise_ssm_causal_v2": EchoLayout(frames=5, skip=1, target_scale=100.0),
}
"""How the authors generate with each row of public checkpoints. They train ``context_k1`` with rows of zeros."""


class EchoContext(ContextMethod):
    """The newest frames, each encoded alone, beside a chunk of new frames, with an `EchoMemory`.

        transformer, memory = load_echo_memory("context_k1/epoch-0.safetensors")
        rollout = Rollout(backbone, EchoContext(memory, LAYOUTS["context_k1"]), seeds=[0], guidance_scale=5.0)

    A chunk begins at the camera at which the one before has ended, so the first of its cameras is the reference.
    """

    apart = True

    def __init__(self, memory: EchoMemory, layout: EchoLayout) -> None:
        super().__init__(layout.frames)
        self.memory, self.layout = memory, layout

    @property
    def newest(self) -> int:
        return self.layout.frames + self.layout.skip

    def choose(self, history: History, cameras: Cameras | None) -> Selection | None:
        if not len(history):
            return None
        rows = history.newest(self.newest)
        left = rows.shape[1] - self.layout.skip
        return history.take(rows[:, : left if left > 0 else None][:, -self.layout.frames :])

    @contextmanager
    def _shown(self, transformers: tuple[nn.Module, ...], inputs: ChunkInputs) -> Iterator[None]:
        if inputs.context_timesteps is not None:
            raise InputError("Echo-Memory has clean context at the timestep of the target; give no context_timesteps.")
        poses = to_echo_poses(inputs.poses, self.layout.target_scale, self.layout.forward)
        past = inputs.context, self._context_poses(inputs)
        with self.memory.attach(*transformers) as attached, attached.chunk(poses, *past):
            yield

    def _context_poses(self, inputs: ChunkInputs) -> Tensor | None:
        poses = inputs.context_poses
        if poses is None or self.layout.context_poses == "zero":
            return None if poses is None else torch.zeros_like(poses)
        if self.layout.context_poses == "identity":
            same = torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
            poses = same.to(poses).expand_as(poses)
        return to_echo_poses(poses, self.layout.context_scale, self.layout.forward)
