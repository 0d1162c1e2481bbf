"""What a row of the compatibility matrix is declared with: a `Feature`, and what it refuses to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.helpers.random_wan import random_transformer


@dataclass(frozen=True)
class Refused:
    """A typed error in place of a result."""

    match: str
    """Part of the error's message."""
    why: str
    """Why, and what to do instead, as the page says it."""


def wrong_cells(
    found: Mapping[str, float | str], refused: Mapping[str, Refused], atol: float
) -> dict[str, float | str]:
    """The cells ("attachable-order") that are not as declared, of the largest differences or errors that were found."""

    def right(name: str, got: float | str) -> bool:
        if name in refused:
            return isinstance(got, str) and refused[name].match in got
        return isinstance(got, float) and got <= atol

    return {cell: got for cell, got in found.items() if not right(cell.split("-")[0], got)}


def unchanged(featured: Any, **changes: Any) -> Any:
    """The plain model of features that do not change what a model computes."""
    return random_transformer(**changes)


@dataclass(frozen=True)
class Feature:
    """A feature of diffusers or torch, put on `random_transformer`, and the plain model that it is compared with."""

    title: str
    apply: Callable[[Any, Path], Any]
    """Puts it on a model, given an empty folder; returns what the caller calls, which may be a wrapper."""
    plain: Callable[..., Any] = unchanged
    """From the model with the feature, a stock one without it that computes the same."""
    atol: float = 0.0
    """Largest difference from the plain model with the same memory; 0 means equal to the last bit."""
    around: Callable[[], AbstractContextManager] = nullcontext
    """In what the model is called."""
    gradients: bool = False
    """Whether gradients are enabled."""
    observe: Callable[[Any, Tensor], Tensor] = lambda model, out: out
    """What is compared, of a model and its output."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of the model, where those of `random_transformer` do not do."""
    both_orders: bool = True
    """Whether it is also put on a model that has something attached already."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    """By the name of the attachable."""
    note: str = ""
    """What the page adds."""
