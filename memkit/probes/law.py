"""`Law`: a rule of change that only reference clips of an unseen name show."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.errors import InputError
from memkit.probes.batch import ProbeBatch, Question
from memkit.probes.patterns import TEXT_DIM, codebook, fixed_patterns, looking, pick
from memkit.probes.probe import Probe, ProbeKnobs, Range, Split

EASED, EASED_STEPS = 0.7, 400
"""Share of the samples whose first reference clip begins as the chunk does when the training of a base begins, and the
number of batches until none does: so the base learns first to copy, then to infer the law from any beginning."""


@dataclass(frozen=True)
class LawKnobs(ProbeKnobs):
    """How many clips, how long, and of how many laws and looks."""

    states: int = 5
    """States through which a clip runs, a prime number; there are as many laws less one, and a clip has as many frames,
    so that it shows each state once."""
    clips: int = 1
    """Reference clips."""
    aligned: float = 1.0
    """Share of the samples whose first reference clip begins in the state from which the chunk is to go on, so that the
    clip shows what follows. All other clips begin in any state, and show the law alone."""
    looks: int = 8
    """Looks in each sample's codebook, of which a name has one."""
    queries: int = 2
    """Frames of the chunk after the given one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states < 3 or any(self.states % n == 0 for n in range(2, self.states)):
            raise InputError(f"{self}: states must be a prime number from 3 on, so that each law shows them all.")
        if not 1 <= self.queries < self.states or self.clips < 1 or self.looks < 2:
            raise InputError(f"{self}: give 1 to states − 1 queries, 1 clip and 2 looks or more.")
        if not 0 <= self.aligned <= 1:
            raise InputError(f"{self}: aligned is a share from 0 to 1.")


class Law(Probe[LawKnobs]):
    """A name stands for a law, by how many states each frame goes on, and for a look, a picture that stays.

    Names are random embeddings, new in each sample, so what they stand for can be learned from the reference clips
    alone. The chunk's first frame is given and shows the state from which it is to go on, without the look. Over a clip
    each state occurs once, so its mean over time is the same for all laws and tells the look, and what changes from
    frame to frame tells the law: the slow and the fast part of a clip.
    """

    name = "law"
    default_ranges = {"clips": Range((1, 2, 3), (1, 2, 3, 5))}
    knobs_class = LawKnobs
    pretrain_steps = 1200
    steps = 2400

    @property
    def chance(self) -> float:
        return (1 / (self.knobs.states - 1) + 1 / self.knobs.looks) / 2

    @property
    def past(self) -> int:
        return self.knobs.clips * self.knobs.states

    @property
    def frames(self) -> int:
        return self.knobs.queries + 1

    @property
    def states(self) -> Float[Tensor, "states channels size size"]:
        """What each state looks like, the same in all samples."""
        return fixed_patterns(self.knobs.states, self.knobs.size)

    def batches(self, split: Split, seed: int, size: int) -> Iterator[ProbeBatch]:
        """Batches as of any probe; in those of a base, the share of aligned clips falls from `EASED` to 0."""
        generator = self.generator(split, seed)
        for step in itertools.count():
            probe = self if split == "test" else self._drawn(generator)
            aligned = EASED * max(0.0, 1 - step / EASED_STEPS) if split == "pretrain" else self.knobs.aligned
            yield probe.sample(generator, size, aligned)

    def sample(self, generator: torch.Generator, batch: int, aligned: float | None = None) -> ProbeBatch:
        """``batch`` new samples; ``aligned`` replaces the knob of that name."""
        knobs, count = self.knobs, self.knobs.states
        looks = codebook(generator, batch, knobs.looks, knobs.size, self.states)
        law = torch.randint(1, count, (batch, 1), generator=generator)
        look = torch.randint(knobs.looks, (batch, 1), generator=generator)
        picture = pick(looks, look)
        starts = torch.randint(count, (batch, knobs.clips, 1), generator=generator)
        clips = [self._run(each, law, count) + picture for each in starts.unbind(1)]
        start = torch.randint(count, (batch, 1), generator=generator)
        if share := knobs.aligned if aligned is None else aligned:
            first = torch.rand(batch, 1, generator=generator) < share
            clips[0] = self._run(torch.where(first, start, starts[:, 0]), law, count) + picture
        run, states = self._run(start, law, self.frames), (start + law * torch.arange(self.frames)) % count
        asked = range(1, self.frames)
        laws = tuple(Question("law", i, self.states[None], states[:, i], 1 / (count - 1)) for i in asked)
        return ProbeBatch(
            memory=torch.cat(clips, dim=2),
            memory_cameras=looking(torch.zeros(batch, self.past)),
            memory_times=tuple(range(self.past)),
            target=torch.cat([run[:, :, :1], run[:, :, 1:] + picture], dim=2),
            cameras=looking(torch.zeros(batch, self.frames)),
            times=tuple(range(self.past, self.past + self.frames)),
            text=torch.randn(batch, 1, TEXT_DIM, generator=generator),
            questions=laws + tuple(Question("look", i, looks, look[:, 0], 1 / knobs.looks) for i in asked),
            given=1,
            clip_frames=count,
        )

    def oracle(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """Goes on from the given frame by the law of the changes, and adds the mean picture of the clips."""
        states, count = self.states, self.knobs.states
        steps = states.flatten(1)
        clips = batch.clips.movedim(3, 2).flatten(3)  # [batch, clips, states, numbers]
        law = (clips.matmul(steps.T).argmax(3).diff(dim=2) % count).flatten(1).mode(dim=1).values[:, None]
        start = (batch.target[:, :, 0].flatten(1) @ steps.T).argmax(1, keepdim=True)
        picture = batch.memory.mean(2, keepdim=True) - states.mean(0)[None, :, None]
        return self._run(start, law, self.frames) + picture

    def _run(
        self, start: Int[Tensor, "batch 1"], law: Int[Tensor, "batch 1"], frames: int
    ) -> Float[Tensor, "batch channels frames size size"]:
        states = self.states.expand(len(start), -1, -1, -1, -1)
        return pick(states, (start + law * torch.arange(frames)) % self.knobs.states)
