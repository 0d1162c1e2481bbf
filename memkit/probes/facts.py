"""What probes of facts share: places around a camera, each with a pattern of the sample's own codebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from memkit.errors import InputError
from memkit.probes.probe import Probe, ProbeKnobs


@dataclass(frozen=True)
class FactKnobs(ProbeKnobs):
    """How many places are asked for, and what comes in between."""

    facts: int = 8
    """Places around the camera that can be asked for: the load."""
    distractors: int = 1
    """Frames in between that are not asked for."""
    distance: int = 2
    """Empty frames after the last fact."""
    queries: int = 2
    """Frames of the chunk; each comes back to another fact."""
    patterns: int = 8
    """Patterns of each sample's codebook, any number of which may be seen: chance is one in so many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.queries <= self.facts or self.patterns < 2 or min(self.distractors, self.distance) < 0:
            raise InputError(f"{self}: give 1 ≤ queries ≤ facts, 2 patterns or more, and nothing below 0.")


Knobs = TypeVar("Knobs", bound=FactKnobs)


class FactProbe(Probe[Knobs]):
    """A probe whose answers are patterns of the sample's own codebook, all equally likely."""

    @property
    def chance(self) -> float:
        return 1 / self.knobs.patterns

    @property
    def frames(self) -> int:
        return self.knobs.queries
