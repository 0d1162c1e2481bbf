"""`ProbeBatch`: short latent clips in two parts, a past and a chunk whose content only the past tells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.relative import relative_pose_vectors
from memkit.display import with_shapes


@dataclass(frozen=True)
class Question:
    """One frame of the chunk shows one of several patterns: which?"""

    kind: str
    """What is asked, such as "law" or "look"; accuracy can be reported per kind."""
    frame: int
    """Frame of the chunk that is to show it."""
    choices: Float[Tensor, "rows patterns channels height width"]
    """Patterns to choose from, per sample or, in one row, the same for all. They are orthogonal, with entries of mean
    square 1."""
    answer: Int[Tensor, " batch"]
    """Number of the right pattern."""
    chance: float
    """Probability that the best guess without the past is right."""

    __repr__ = with_shapes

    def read(self, latents: Float[Tensor, "batch channels frames height width"]) -> Int[Tensor, " batch"]:
        """Number of the pattern that is nearest to what the frame shows: that of the largest inner product."""
        shown = latents[:, :, self.frame].flatten(1)
        return (self.choices.flatten(2).to(shown) @ shown[..., None]).squeeze(-1).argmax(1)


@dataclass(frozen=True)
class ProbeBatch:
    """Samples of a probe. A chunk is to be generated from its past, its cameras, its text and its given frames."""

    memory: Float[Tensor, "batch channels past height width"]
    """The past: clean latent frames, the oldest first."""
    memory_cameras: Cameras
    """Cameras of the past [batch, past]."""
    memory_times: tuple[int, ...]
    """Time of each past frame, in latent frames; gaps are frames of which nothing is left."""
    target: Float[Tensor, "batch channels frames height width"]
    """The chunk as it should become."""
    cameras: Cameras
    """Cameras of the chunk [batch, frames]."""
    times: tuple[int, ...]
    """Time of each frame of the chunk."""
    text: Float[Tensor, "batch words text_dim"]
    """Embeddings of the caption: zeros, except where a probe has names."""
    questions: tuple[Question, ...]
    """What the chunk is asked for."""
    given: int = 0
    """Number of first frames of the chunk that are given as conditioning frames, and not asked for."""
    clip_frames: int | None = None
    """Where the past consists of reference clips: frames per clip."""
    depth: Float[Tensor, "batch past height width"] | None = None
    """Where it is known: metres along the rays of the past frames."""

    __repr__ = with_shapes

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> ProbeBatch:
        """The same samples with what a model sees on a device; questions stay where they are."""
        past, own = self.memory_cameras, self.cameras
        return replace(
            self,
            memory=self.memory.to(device),
            memory_cameras=Cameras(past.c2w.to(device), past.intrinsics.to(device)),
            target=self.target.to(device),
            cameras=Cameras(own.c2w.to(device), own.intrinsics.to(device)),
            text=self.text.to(device),
            depth=None if self.depth is None else self.depth.to(device),
        )

    @property
    def clips(self) -> Float[Tensor, "batch clips channels length height width"]:
        """The past as reference clips; frames that do not belong to clips are clips of one frame."""
        length = self.clip_frames or 1
        return self.memory.unflatten(2, (-1, length)).movedim(2, 1)

    def poses(self) -> tuple[Float[Tensor, "batch frames 12"], Float[Tensor, "batch past 12"]]:
        """Pose vectors of the chunk's frames and of the past's, relative to the chunk's first camera, float32."""
        frames = len(self.times)
        poses = relative_pose_vectors(torch.cat([self.cameras.c2w, self.memory_cameras.c2w], dim=1)).float()
        return poses[:, :frames], poses[:, frames:]

    def take(self, rows: Int[Tensor, "batch k"]) -> ProbeBatch:
        """The same samples with only some frames of their past, other ones in each, in the order of ``rows``.

        As all samples share their times, the frames get those of the newest ``k``.
        """
        index, count, past = torch.arange(len(self))[:, None], rows.shape[1], self.memory_cameras
        return replace(
            self,
            memory=self.memory.movedim(2, 1)[index, rows].movedim(1, 2),
            memory_cameras=Cameras(past.c2w[index, rows], past.intrinsics[index, rows]),
            memory_times=self.memory_times[len(self.memory_times) - count :],
            depth=None if self.depth is None else self.depth[index, rows],
        )

    def newest(self, frames: int) -> ProbeBatch:
        """The same samples with only the newest ``frames`` of their past."""
        count = len(self.memory_times)
        return self.take(torch.arange(max(0, count - frames), count).expand(len(self), -1))

    def without_memory(self) -> ProbeBatch:
        """The control without the past: the same samples, of whose past nothing is left."""
        return self.newest(0)

    def with_memory_of(self, rows: Int[Tensor, " batch"]) -> ProbeBatch:
        """The control with a wrong past: each sample gets the past of another, with its cameras."""
        past = self.memory_cameras
        return replace(
            self,
            memory=self.memory[rows],
            memory_cameras=Cameras(past.c2w[rows], past.intrinsics[rows]),
            depth=None if self.depth is None else self.depth[rows],
        )

    def with_random_memory(self, generator: torch.Generator) -> ProbeBatch:
        """The control with a meaningless past: noise in place of its frames."""
        return replace(self, memory=torch.randn(self.memory.shape, generator=generator).to(self.memory))

    def concealed(self) -> ProbeBatch:
        """The same samples without what is to be found: no questions, and of the target only the given frames."""
        known = torch.zeros_like(self.target)
        known[:, :, : self.given] = self.target[:, :, : self.given]
        return replace(self, target=known, questions=())

    def correct(
        self, prediction: Float[Tensor, "batch channels frames height width"]
    ) -> Bool[Tensor, "batch questions"]:
        """Whether a predicted chunk answers each question rightly."""
        return torch.stack([each.read(prediction) == each.answer for each in self.questions], dim=1)
