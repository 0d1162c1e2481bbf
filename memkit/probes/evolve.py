"""`Evolve`: a state moves on while nothing is seen, at a rate that only the frames before the interruption show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memkit.errors import InputError
from memkit.flow import add_noise
from memkit.probes.batch import ProbeBatch, Question
from memkit.probes.patterns import empty, fixed_patterns, looking, no_text, pick
from memkit.probes.probe import Probe, ProbeKnobs, Range


@dataclass(frozen=True)
class EvolveKnobs(ProbeKnobs):
    """How much is seen of the process, how long it goes on unseen, and how bad the record is."""

    states: int = 7
    """States of the process, a prime number, so that any two frames show the rate; chance is one in so many."""
    seen: int = 6
    """Frames before the interruption."""
    hidden: int = 2
    """Frames of the interruption that are in the past, and show nothing: the distance."""
    gaps: tuple[int, ...] = (0,)
    """Further frames of the interruption, of which nothing is left; one of these numbers is drawn for each batch."""
    dropped: int = 0
    """How many of the frames seen show nothing after all, in each sample others; two are left at least."""
    noise: float = 0.0
    """Noise level in the past, in [0, 1)."""
    queries: int = 2
    """Frames of the chunk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states < 3 or any(self.states % n == 0 for n in range(2, self.states)):
            raise InputError(f"{self}: states must be a prime number from 3 on; two frames would not tell the rate.")
        if not 2 <= self.seen - self.dropped <= self.seen <= self.states or self.hidden < 0 or self.queries < 1:
            raise InputError(f"{self}: give 2 to {self.states} frames seen, of which 2 are left, and 1 query or more.")
        if not self.gaps or min(self.gaps) < 0 or not 0 <= self.noise < 1:
            raise InputError(f"{self}: give one gap or more, of 0 frames or more, and a noise level in [0, 1).")


class Evolve(Probe[EvolveKnobs]):
    """A process runs through its states in a circle, by as many per frame as its rate says, and is asked for later.

    States look the same in all samples; the first state and the rate, from 1 to ``states`` − 1, are drawn. No caption
    names them. The camera stands still.
    """

    name = "evolve"
    default_ranges = {
        "hidden": Range((0, 2, 4), (0, 2, 4, 6)),
        "gaps": Range(((0,),), ((0,), (3,), (6,))),
        "dropped": Range((0,), (0, 1, 2)),
        "noise": Range((0.0,), (0.0, 0.3, 0.6)),
    }
    knobs_class = EvolveKnobs

    @property
    def chance(self) -> float:
        return 1 / self.knobs.states

    @property
    def past(self) -> int:
        return self.knobs.seen + self.knobs.hidden

    @property
    def frames(self) -> int:
        return self.knobs.queries

    @property
    def states(self) -> Float[Tensor, "states channels size size"]:
        """What each state looks like."""
        return fixed_patterns(self.knobs.states, self.knobs.size)

    def sample(self, generator: torch.Generator, batch: int) -> ProbeBatch:
        knobs, choices = self.knobs, self.states[None]
        start = torch.randint(knobs.states, (batch, 1), generator=generator)
        rate = torch.randint(1, knobs.states, (batch, 1), generator=generator)
        gap = knobs.gaps[int(torch.randint(len(knobs.gaps), (1,), generator=generator))]
        times = tuple(range(self.past + gap, self.past + gap + self.frames))
        shown = self._show((start + rate * torch.arange(knobs.seen)) % knobs.states)
        drop = torch.rand(batch, knobs.seen, generator=generator).argsort(dim=1).argsort(dim=1) < knobs.dropped
        shown = shown.masked_fill(drop[:, None, :, None, None], 0.0)
        memory = torch.cat([shown, empty(batch, knobs.hidden, knobs.size)], dim=2)
        noise = torch.randn(memory.shape, generator=generator)
        answers = (start + rate * torch.tensor(times)) % knobs.states
        return ProbeBatch(
            memory=add_noise(memory, noise, torch.full((batch,), knobs.noise)),
            memory_cameras=looking(torch.zeros(batch, self.past)),
            memory_times=tuple(range(self.past)),
            target=self._show(answers),
            cameras=looking(torch.zeros(batch, self.frames)),
            times=times,
            text=no_text(batch),
            questions=tuple(Question("state", i, choices, answers[:, i], self.chance) for i in range(self.frames)),
        )

    def oracle(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """The states that the most likely start and rate lead to."""
        start, rate = self._fitted(batch)
        return self._show((start + rate * torch.tensor(batch.times)) % self.knobs.states)

    def frozen(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """The control in which nothing has happened: the last state that was seen."""
        start, rate = self._fitted(batch)
        last = torch.tensor(batch.memory_times[self.knobs.seen - 1]).expand(self.frames)
        return self._show((start + rate * last) % self.knobs.states)

    def _show(self, states: Int[Tensor, "batch frames"]) -> Float[Tensor, "batch channels frames size size"]:
        return pick(self.states.expand(len(states), -1, -1, -1, -1), states)

    def _fitted(self, batch: ProbeBatch) -> tuple[Int[Tensor, "batch 1"], Int[Tensor, "batch 1"]]:
        """Start and rate whose states resemble the past most: the sum of inner products over its frames."""
        count = self.knobs.states
        alike = batch.memory.movedim(2, 1).flatten(2) @ self.states.flatten(1).T  # [batch, past, states]
        start, rate = torch.meshgrid(torch.arange(count), torch.arange(1, count), indexing="ij")
        time = torch.tensor(batch.memory_times)[:, None, None]
        state = (start + rate * time) % count
        score = torch.stack([alike[:, i, each] for i, each in enumerate(state)]).sum(0).flatten(1)
        best = score.argmax(1, keepdim=True)
        return start.flatten()[best], rate.flatten()[best]
