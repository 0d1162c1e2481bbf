"""`Recall`: what was seen where, when the camera comes back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.probes.batch import ProbeBatch, Question
from memkit.probes.facts import FactKnobs, FactProbe
from memkit.probes.patterns import (
    codebook,
    empty,
    headings,
    in_order,
    joined,
    looking,
    no_text,
    pick,
    shuffled,
    then_as_before,
)
from memkit.probes.probe import Range

ELSEWHERE = 6.0
"""Metres that a distractor's camera stands beside: with a field of view of 30°, too far for it to see anything of what
a camera in the middle sees in the same direction within 10 m."""


@dataclass(frozen=True)
class RecallKnobs(FactKnobs):
    """How much was seen, how long ago, and what else.

    ``facts`` are places seen once; ``distractors`` are frames in between that show patterns in directions of the facts,
    each from a spot beside, as do the ``distance`` empty frames.
    """


class Recall(FactProbe[RecallKnobs]):
    """The camera turns and sees one pattern in each direction; then it comes back to some of the directions.

    Directions are at equal angles from a random one; facts and distractors come in random order.
    """

    name = "recall"
    default_ranges = {"facts": Range((2, 4, 8), (2, 4, 8, 12)), "distance": Range((0, 2, 6), (0, 2, 6, 12))}
    knobs_class = RecallKnobs

    @property
    def past(self) -> int:
        return self.knobs.facts + self.knobs.distractors + self.knobs.distance

    def sample(self, generator: torch.Generator, batch: int) -> ProbeBatch:
        knobs = self.knobs
        seen = knobs.facts + knobs.distractors
        patterns = codebook(generator, batch, knobs.patterns, knobs.size)
        shown = torch.randint(knobs.patterns, (batch, seen), generator=generator)
        yaw = headings(generator, batch, knobs.facts)
        aside = torch.randint(knobs.facts, (batch, self.past - knobs.facts), generator=generator)
        latents, cameras = in_order(
            then_as_before(shuffled(generator, batch, seen), self.past),
            torch.cat([pick(patterns, shown), empty(batch, knobs.distance, knobs.size)], dim=2),
            joined(looking(yaw), _from_beside(yaw.gather(1, aside))),
        )
        asked = shuffled(generator, batch, knobs.facts)[:, : knobs.queries]
        answers = shown.gather(1, asked)
        return ProbeBatch(
            memory=latents,
            memory_cameras=cameras,
            memory_times=tuple(range(self.past)),
            target=pick(patterns, answers),
            cameras=looking(yaw.gather(1, asked)),
            times=tuple(range(self.past, self.past + self.frames)),
            text=no_text(batch),
            questions=tuple(Question("fact", i, patterns, answers[:, i], self.chance) for i in range(self.frames)),
        )

    def oracle(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """For each frame of the chunk, the past frame with the same camera."""
        past, own = batch.memory_cameras.c2w.flatten(2), batch.cameras.c2w.flatten(2)
        nearest = torch.cdist(own, past).argmin(2)
        return pick(batch.memory.movedim(2, 1), nearest)


def _from_beside(yaw: Float[Tensor, "batch frames"]) -> Cameras:
    """Cameras that look in these directions, each from a point beside."""
    beside = torch.stack([-yaw.sin(), yaw.cos(), torch.zeros_like(yaw)], dim=-1)
    return looking(yaw, ELSEWHERE * beside)
