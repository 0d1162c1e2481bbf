"""`ContextMethod`: the interface by which a chunk of a long video sees its past; see `memkit.rollout.methods`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memkit.cameras.cameras import Cameras
from memkit.cameras.relative import POSE_VECTOR_SIZE, relative_pose_vectors
from memkit.checks import MOST_FRAMES, check_finite, check_floats, check_text, check_whole, check_within
from memkit.display import with_shapes
from memkit.errors import InputError
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.rollout.frames import Selection
from memkit.rollout.history import History

Keeps = Literal["chunks", "frames"]
"""What a history holds for a method: the latents of whole chunks, or of single frames that were each encoded alone and
can be shown in any order."""


class ChunkInputs(NamedTuple):
    """Inputs of a chunk. Poses are relative to its first camera, [batch, frames, 12]."""

    context: Float[Tensor, "batch channels k height width"] | None
    poses: Float[Tensor, "batch frames 12"]
    context_poses: Float[Tensor, "batch k 12"] | None
    annotation: str
    noise: Float[Tensor, "batch channels frames height width"]
    text: Float[Tensor, "batch words text_dim"]
    context_timesteps: Float[Tensor, "batch k"] | None

    __repr__ = with_shapes


class ContextMethod(nn.Module, ABC):
    """The base of all context methods; a chunk sees at most ``frames`` past latent frames."""

    keeps: Keeps = "chunks"
    apart: bool = False
    """Whether all frames of a chunk are new, and its past are the newest ``newest`` frames, each encoded alone.
    Otherwise the first frame of a chunk is the last one of the chunk before, and is given as a conditioning frame."""

    @property
    def newest(self) -> int:
        """Number of the newest frames of the video that a chunk which stands apart chooses from."""
        return self.frames

    def __init__(self, frames: int) -> None:
        super().__init__()
        check_whole("frames", frames, 0, MOST_FRAMES)
        self.frames = frames

    def choose(self, history: History, cameras: Cameras | None) -> Selection | None:
        """Frames of a history for a chunk with these cameras [B,F]: by default the newest. None if there are none."""
        count = min(self.frames, len(history))
        return history.take(history.newest(count)) if count else None

    def shown(
        self,
        *transformers: nn.Module,
        selection: Selection | None,
        cameras: Cameras | None,
        noise: Float[Tensor, "batch channels frames height width"],
        text: Float[Tensor, "batch words text_dim"],
        annotation: str = "exact",
        context_timesteps: Float[Tensor, "batch k"] | None = None,
    ) -> AbstractContextManager[None]:
        """Inside, the transformers generate the chunk with ``cameras`` [B,F] and see the selected frames.

        Args:
            transformers: the models that generate the chunk.
            selection: the result of `choose`; it has cameras if and only if the chunk has.
            cameras: of the chunk's latent frames; None if they are unknown, and zeros are encoded (MemLearner, 3.3).
            noise: what queries start from, drawn once per chunk.
            text: embeddings of the chunk's prompts.
            annotation: the kind of the poses, which chooses the camera encoder.
            context_timesteps: noise of the selected frames as timesteps in [0, 1000], for methods with frames in
                sequence; by default they are clean.

        Raises:
            InputError: only one of context and chunk has cameras, queries are given noisy context, or a tensor is not
                finite or of another dtype or number of axes.
        """
        check_finite("noise", noise, "[B, C, F, H, W]")
        check_floats("text", text, "[B, L, D]")
        check_text("annotation", annotation)
        if context_timesteps is not None:
            check_within("context_timesteps", context_timesteps, 0, NUM_TRAIN_TIMESTEPS, "[B, k]")
        own, past = relative_poses(cameras, selection, noise.shape[2])
        context = None if selection is None else selection.latents
        return self._shown(transformers, ChunkInputs(context, own, past, annotation, noise, text, context_timesteps))

    @abstractmethod
    def _shown(self, transformers: tuple[nn.Module, ...], inputs: ChunkInputs) -> AbstractContextManager[None]: ...


def relative_poses(
    cameras: Cameras | None, selection: Selection | None, frames: int
) -> tuple[Float[Tensor, "rows frames 12"], Float[Tensor, "rows k 12"] | None]:
    """Pose vectors of a chunk's frames and of its context's, relative to the chunk's first camera; float32.

    Without cameras they are zeros, in one row. Raises `InputError` where only one of the two has cameras.
    """
    if selection is not None and (selection.cameras is None) != (cameras is None):
        raise InputError("Only one of chunk and context has cameras; give cameras to both or to neither.")
    if cameras is None:
        past = None if selection is None else torch.zeros(1, selection.latents.shape[2], POSE_VECTOR_SIZE)
        return torch.zeros(1, frames, POSE_VECTOR_SIZE), past
    own = cameras.c2w.double()
    context = [] if selection is None or selection.cameras is None else [selection.cameras.c2w.to(own)]
    poses = relative_pose_vectors(torch.cat([own, *context], dim=1)).float()
    return poses[:, : own.shape[1]], poses[:, own.shape[1] :] if context else None
