"""`Report`, `CheckFailed`, and `Properties`, which runs the properties of a check one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memkit.checks import SEEDS, check_whole
from memkit.errors import MemkitError

VIOLATIONS = "violations"
SUPPRESSED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.nested_given)


class CheckFailed(MemkitError, AssertionError):
    """A property does not hold; the message says which, its figure, the bound, the inputs and the remedy.

    ``failed`` is the property with the figure that was measured, None if the part raised an error instead. ``report``
    has the properties that were checked before it and hold.
    """

    failed: Property | None = None
    report: Report


@dataclass(frozen=True)
class Property:
    """One property and the worst figure that was measured: the largest where ``at_most``, otherwise the smallest."""

    name: str
    figure: float
    bound: float
    at_most: bool
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the figure is within its bound; NaN is not."""
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound

    def __str__(self) -> str:
        if self.unit == VIOLATIONS:
            return f"{self.figure:.0f} {self.unit}"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.figure:.3g}{unit} (at {'most' if self.at_most else 'least'} {self.bound:g}{unit})"


@dataclass(frozen=True)
class Report:
    """What a check found: all properties that hold, with their figures, and the names of those it could not check."""

    check: str
    part: str
    seed: int
    properties: tuple[Property, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """The worst figure of each property, by its name."""
        return {each.name: each.figure for each in self.properties}

    def __repr__(self) -> str:
        lines = [f"{self.check}({self.part}), seed {self.seed}: {len(self.properties)} properties hold"]
        width = max((len(each.name) for each in self.properties), default=0)
        lines += [f"  {each.name:<{width}}  {each}" for each in self.properties]
        lines += [f"  not checked: {name}" for name in self.not_checked]
        return "\n".join(lines)


class Properties:
    """Measures properties over drawn inputs, and keeps the worst figure of each.

    Args:
        check: name of the check.
        part: what is checked, for messages.
        seed: determines all inputs that are drawn.
        examples: largest number of inputs drawn for each property.
        shrink: look for the smallest input that fails, which takes many more calls of the part.

    Raises `InputError` for less than one example, and for a seed that is none.
    """

    def __init__(self, check: str, part: str, seed: int, examples: int, shrink: bool = True) -> None:
        check_whole("examples", examples, 1, 1_000_000)
        check_whole("seed", seed, *SEEDS)
        self.report = Report(check, part, seed)
        self._settings = hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=SUPPRESSED,
            report_multiple_bugs=False,
            print_blob=False,
        )

    def at_most(
        self,
        name: str,
        bound: float,
        measure: Callable[..., float | Tensor],
        remedy: str,
        unit: str = "",
        **inputs: SearchStrategy,
    ) -> None:
        """``measure(**inputs)`` is at most ``bound`` for all inputs. Raises `CheckFailed` if it is larger, or NaN."""
        self._run(Property(name, -math.inf, bound, True, unit), measure, remedy, inputs)

    def at_least(
        self,
        name: str,
        bound: float,
        measure: Callable[..., float | Tensor],
        remedy: str,
        unit: str = "",
        **inputs: SearchStrategy,
    ) -> None:
        """``measure(**inputs)`` is at least ``bound`` for all inputs."""
        self._run(Property(name, math.inf, bound, False, unit), measure, remedy, inputs)

    def none(self, name: str, count: Callable[..., int | bool], remedy: str, **inputs: SearchStrategy) -> None:
        """``count(**inputs)``, the number of violations, is 0 for all inputs."""
        self.at_most(name, 0, count, remedy, VIOLATIONS, **inputs)

    def skip(self, name: str) -> None:
        """Note a property that cannot be checked, and why."""
        self.report = _extended(self.report, not_checked=(*self.report.not_checked, name))

    def _run(
        self, worst: Property, measure: Callable[..., Any], remedy: str, inputs: dict[str, SearchStrategy]
    ) -> None:
        figures: list[float] = []
        failures: list[CheckFailed] = []

        def example(**drawn: Any) -> None:
            try:
                found = Property(worst.name, float(measure(**drawn)), worst.bound, worst.at_most, worst.unit)
            except Exception as error:
                raised = f"{type(error).__name__}: {error}"
                failures.append(self._failure(None, f"{worst.name!r} could not be measured ({raised})", drawn, remedy))
                raise failures[-1] from error
            figures.append(found.figure)
            if not found.holds:
                failures.append(self._failure(found, f"{worst.name!r} does not hold: {found}", drawn, remedy))
                raise failures[-1]

        run = hypothesis.given(**inputs)(example) if inputs else example
        try:
            hypothesis.seed(self.report.seed)(self._settings(run))() if inputs else run()
        except Exception:  # hypothesis' own too: it calls a part "flaky" that fails only sometimes
            if not failures:
                raise
            vars(failures[-1]).pop("__notes__", None)  # the message has the inputs already
            raise failures[-1] from failures[-1].__cause__
        figure = max(figures) if worst.at_most else min(figures)
        done = Property(worst.name, figure, worst.bound, worst.at_most, worst.unit)
        self.report = _extended(self.report, properties=(*self.report.properties, done))

    def _failure(self, found: Property | None, what: str, drawn: dict[str, Any], remedy: str) -> CheckFailed:
        given = ", ".join(f"{name} {_described(value)}" for name, value in drawn.items())
        failure = CheckFailed(
            f"{self.report.check}({self.report.part}): {what}{', for ' + given if given else ''}. {remedy}"
        )
        failure.failed, failure.report = found, self.report
        return failure


def _extended(report: Report, **changes: Any) -> Report:
    return Report(**{**vars(report), **changes})


def _described(value: object) -> str:
    """An input as a message names it: the sizes of a tensor, anything else as it is."""
    return str(list(value.shape)) if isinstance(value, Tensor) else repr(value)
