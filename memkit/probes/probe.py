"""`Probe`: a small task whose answer lies in memory and nowhere else, scored exactly."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from memkit.errors import InputError
from memkit.probes.batch import ProbeBatch
from memkit.probes.patterns import CHANNELS

Split = Literal["pretrain", "train", "test"]


class Range(NamedTuple):
    """Values of one knob."""

    train: tuple[Any, ...]
    """One of these is drawn for each batch of training."""
    test: tuple[Any, ...]
    """Each of these is tested; those that do not occur in training show what a mechanism does beyond it."""


Ranges = Mapping[str, Range]
NO_RANGES: Ranges = MappingProxyType({})


@dataclass(frozen=True)
class ProbeKnobs:
    """What the knobs of all probes share."""

    size: int = 4
    """Rows and columns of a latent frame, an even number: a token covers 2×2 cells."""

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise InputError(f"{self}: give an even size, as a token covers 2×2 cells.")


Knobs = TypeVar("Knobs", bound=ProbeKnobs)


class Probe(ABC, Generic[Knobs]):
    """A generator of short latent clips, with exact scoring.

        probe = Recall(RecallKnobs(facts=6))
        batch = probe.sample(torch.Generator().manual_seed(0), 32)
        accuracy = probe.score(prediction, batch).float().mean()  # to be compared with probe.chance

    What a sample shows is drawn anew for each, so what was learned of one says nothing about another. A subclass has a
    frozen dataclass of knobs, draws samples, and says how their answers are read out of memory.
    """

    name: ClassVar[str]
    knobs_class: ClassVar[type[ProbeKnobs]]
    pretrain_steps: ClassVar[int] = 400
    """Training steps after which a model with everything in its sequence is right, with the default knobs."""

    steps: ClassVar[int] = 800
    """Training steps of each mechanism from there, the same for all."""

    default_ranges: ClassVar[Ranges] = NO_RANGES
    """The ranges of those knobs that `make_probe` does not fix."""

    def __init__(self, knobs: Knobs | None = None, ranges: Ranges = NO_RANGES) -> None:
        """``ranges``: values of knobs that change from batch to batch in training; ``knobs``: those of the test."""
        self.knobs: Knobs = self.knobs_class() if knobs is None else knobs  # pyright: ignore
        self.ranges = dict(ranges)

    @abstractmethod
    def sample(self, generator: torch.Generator, batch: int) -> ProbeBatch:
        """``batch`` new samples, from the generator alone."""

    @abstractmethod
    def oracle(self, batch: ProbeBatch) -> Float[Tensor, "batch channels frames height width"]:
        """The chunk as it follows from the past, by the rule of the probe: the ceiling of what a model can do.

        It reads no target and no answer. Frames that are not asked for are zeros.
        """

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of the best guess without the past: the mean over the questions."""

    @property
    @abstractmethod
    def past(self) -> int:
        """Number of past frames."""

    @property
    @abstractmethod
    def frames(self) -> int:
        """Number of frames of the chunk, with those that are given."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a latent frame."""
        return CHANNELS, self.knobs.size, self.knobs.size

    def score(
        self, prediction: Float[Tensor, "batch channels frames height width"], batch: ProbeBatch
    ) -> Bool[Tensor, "batch questions"]:
        """Whether the predicted chunk answers each question rightly: the nearest pattern counts."""
        if prediction.shape != batch.target.shape:
            raise InputError(f"The prediction is {list(prediction.shape)}; give {list(batch.target.shape)}.")
        return batch.correct(prediction)

    def batches(self, split: Split, seed: int, size: int) -> Iterator[ProbeBatch]:
        """An endless stream of batches. Streams of other splits, seeds or probes are independent of each other."""
        generator = self.generator(split, seed)
        while True:
            probe = self if split == "test" else self._drawn(generator)
            yield probe.sample(generator, size)

    def generator(self, split: Split, seed: int) -> torch.Generator:
        """The generator of a stream of batches."""
        digest = hashlib.sha256(f"{self.name}/{split}/{seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))

    def at(self, **knobs: Any) -> Probe[Knobs]:
        """The same probe with other values of some knobs, and without ranges."""
        return type(self)(replace(self.knobs, **knobs))

    def _drawn(self, generator: torch.Generator) -> Probe[Knobs]:
        """The same probe with one of the values of each range."""
        values = {name: each.train for name, each in self.ranges.items()}
        return self.at(**{name: x[int(torch.randint(len(x), (1,), generator=generator))] for name, x in values.items()})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.knobs})"
