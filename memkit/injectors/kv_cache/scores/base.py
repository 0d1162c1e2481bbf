"""`Score`: how much a cached frame is worth. A cache evicts the lowest, a read policy takes the highest.

A score is a small class with one method, as in kvpress. Scores add up: ``Sink(3) + Recent(6) + KeyNorm()`` keeps the
first 3 frames and the newest 6 in any case, and decides about the others by the norm of their keys. Numbers of
different scores are on different scales; ``KeyNorm().ranked() + 2 * PoseNearness(cameras).ranked()`` adds up ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.checks import check_number
from memkit.errors import InputError

Need = Literal["attention", "prompt"]
"""What a score needs to be told, beside keys and latents."""


@runtime_checkable
class Held(Protocol):
    """What scores read of a branch of a cache."""

    @property
    def layers(self) -> int: ...
    @property
    def rotated(self) -> bool: ...
    def get(self, layer: int, positions: Sequence[int] | None = None) -> tuple[Tensor, Tensor]: ...
    def noted(self, name: str, positions: Sequence[int]) -> list[Tensor | None]: ...
    def before(self, chunk: Sequence[int]) -> tuple[int, ...]: ...
    @property
    def prompt(self) -> Sequence[Tensor] | None: ...


class Score(ABC):
    """A number per cached frame; the frames that matter most have the highest."""

    needs: frozenset[Need] = frozenset()
    """What a cache must note, or a stream must say, for it."""

    @abstractmethod
    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        """Scores of the cached frames at ``positions``, for a chunk at the positions ``chunk``; ±∞ is allowed."""

    def describe(self, latents: Float[Tensor, "batch channels frames height width"]) -> dict[str, list[Tensor]]:
        """What it wants noted of clean latents that are written: by name, one tensor per frame."""
        return {}

    def checked(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> list[float]:
        """`score` as numbers. Raises `InputError` where it gives another number of them, or NaN."""
        scores = self.score(held, positions, chunk)
        if tuple(scores.shape) != (len(positions),) or bool(scores.isnan().any()):
            raise InputError(
                f"{type(self).__name__} gave {list(scores.shape)} scores for {len(positions)} frames, or NaN among "
                "them; give one number per frame."
            )
        return scores.double().tolist()

    def ranked(self) -> Score:
        """The rank among the frames at hand instead of the number: 0 for the lowest to 1 for the highest."""
        return Ranked(self)

    def __add__(self, other: Score) -> Score:
        return Sum(((1.0, self), (1.0, other)))

    def __rmul__(self, weight: float) -> Score:
        return Sum(((weight, self),))


@dataclass(frozen=True)
class Ranked(Score):
    """The rank of each frame by another score, from 0 to 1; equal scores have the mean of their ranks."""

    of: Score

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        return self.of.needs

    def describe(self, latents: Float[Tensor, "batch channels frames height width"]) -> dict[str, list[Tensor]]:
        return self.of.describe(latents)

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        own = torch.tensor(self.of.checked(held, positions, chunk), dtype=torch.float64)
        below = (own[:, None] > own[None]).double().sum(1)
        equal = (own[:, None] == own[None]).double().sum(1) - 1
        return (below + equal / 2) / max(1, len(own) - 1)


@dataclass(frozen=True)
class Sum(Score):
    """A weighted sum of scores; infinite ones count for more than any sum, the lowest for most."""

    terms: tuple[tuple[float, Score], ...]

    def __post_init__(self) -> None:
        for weight, _ in self.terms:
            check_number("The weight of a score", weight, 1e-9)

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        return frozenset[Need]().union(*(score.needs for _, score in self.terms))

    def describe(self, latents: Float[Tensor, "batch channels frames height width"]) -> dict[str, list[Tensor]]:
        return {name: values for _, score in self.terms for name, values in score.describe(latents).items()}

    def score(self, held: Held, positions: Sequence[int], chunk: Sequence[int]) -> Float[Tensor, " frames"]:
        rows = [[weight * x for x in score.checked(held, positions, chunk)] for weight, score in self.terms]
        columns = torch.tensor(rows, dtype=torch.float64).view(len(rows), len(positions))
        lowest = (columns == -torch.inf).any(0)  # ∞ − ∞ would be NaN
        return columns.sum(0).masked_fill(lowest, -torch.inf)
