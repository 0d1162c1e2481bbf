"""`Switch`: two facts about a place contradict each other in time, and the newer one counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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


@dataclass(frozen=True)
class SwitchKnobs(FactKnobs):
    """How many places changed, how many did not, and how long ago.

    ``facts`` are places seen twice, each time with another pattern; ``distractors`` are places seen once, in either
    round. In the ``distance`` empty frames the camera looks between two places.
    """

    facts: int = 5


class Switch(FactProbe[SwitchKnobs]):
    """The camera looks around twice, each time in a new order; in between, some places have changed.

    Both facts are in memory, under the same camera, and only their order tells which counts. Taking either by chance
    is right in half of the cases, the older one in none.
    """

    name = "switch"
    default_ranges = {"facts": Range((2, 3, 5), (2, 3, 5, 7)), "distance": Range((0, 1, 4), (0, 1, 4, 8))}
    knobs_class = SwitchKnobs
    pretrain_steps = 600

    @property
    def past(self) -> int:
        return 2 * self.knobs.facts + self.knobs.distractors + self.knobs.distance

    def sample(self, generator: torch.Generator, batch: int) -> ProbeBatch:
        knobs, facts = self.knobs, self.knobs.facts
        places, looks = facts + knobs.distractors, 2 * facts + knobs.distractors
        patterns = codebook(generator, batch, knobs.patterns, knobs.size)
        yaw = headings(generator, batch, places)
        older = torch.randint(knobs.patterns, (batch, places), generator=generator)
        newer = (older[:, :facts] + torch.randint(1, knobs.patterns, (batch, facts), generator=generator)) % (
            knobs.patterns
        )
        second = torch.cat([torch.zeros(batch, facts), torch.rand(batch, knobs.distractors, generator=generator)], 1)
        rounds = torch.cat([(second > 0.5).float(), torch.ones(batch, facts)], dim=1)
        order = (rounds + torch.rand(batch, looks, generator=generator)).argsort(dim=1)
        latents, cameras = in_order(
            then_as_before(order, self.past),
            torch.cat([pick(patterns, torch.cat([older, newer], 1)), empty(batch, knobs.distance, knobs.size)], dim=2),
            joined(
                looking(torch.cat([yaw, yaw[:, :facts]], dim=1)),
                looking((yaw[:, :1] + torch.pi / places).expand(-1, knobs.distance)),
            ),
        )
        asked = shuffled(generator, batch, facts)[:, : knobs.queries]
        answers = newer.gather(1, asked)
        return ProbeBatch(
            memory=latents,
            memory_cameras=cameras,
            memory_times=tuple(range(self.past)),
            target=pick(patterns, answers),
            cameras=looking(yaw.gather(1, asked)),
            times=tuple(range(self.past, self.past + self.frames)),
            text=no_text(batch),
            questions=tuple(Question("newer", i, patterns, answers[:, i], self.chance) for i in range(self.frames)),
        )

    def oracle(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """For each frame of the chunk, the newest past frame with the same camera."""
        return self._seen(batch, newest=True)

    def older(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """The control that takes the oldest fact: never right."""
        return self._seen(batch, newest=False)

    def _seen(self, batch: ProbeBatch, newest: bool) -> Float[Tensor, "batch channels frames height width"]:
        past, own = batch.memory_cameras.c2w.flatten(2), batch.cameras.c2w.flatten(2)
        away, time = torch.cdist(own, past), torch.tensor(batch.memory_times)
        row = (away.round(decimals=3) * 1e6 + (-time if newest else time)).argmin(2)
        return pick(batch.memory.movedim(2, 1), row)
