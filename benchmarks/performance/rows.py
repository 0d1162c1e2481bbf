"""Rows of the performance table, and the clock under them: variants take turns, and a figure is a ratio of medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from memkit.metrics import Interval, bootstrap


@dataclass(frozen=True)
class Variant:
    """One way to do what is timed."""

    run: Callable[[], object]
    flops: float | None = None
    """Floating-point operations of one run, by its matrix products."""
    moved: float | None = None
    """Bytes that one run must read and write at least, for the achieved bandwidth."""


@dataclass(frozen=True)
class Row:
    """One claim of the table."""

    claim: str
    value: float
    """The ratio, or the figure in ``unit``."""
    low: float
    """Bounds of its 95 % interval."""
    high: float
    target: float | None = None
    at_least: bool = False
    """Whether the target is a lower bound."""
    limit: float | None = None
    """The same figure by arithmetic alone: operations or bytes."""
    limit_from: str = ""
    """What the limit counts."""
    unit: str = ""
    """Unit of the figure; empty for ratios."""
    details: dict[str, Any] = field(default_factory=dict)
    """Median times in milliseconds and, on a GPU, peak memory and achieved throughput."""

    @property
    def met(self) -> bool | None:
        """Whether the figure meets its target; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Bench:
    """Times variants on one device.

    On a CPU it counts the CPU seconds of one thread, which other processes disturb little; on a GPU, the time between
    two events on the stream.
    """

    def __init__(self, device: str = "cpu", rounds: int = 9, threads: int = 1) -> None:
        self.device, self.rounds, self.threads = torch.device(device), rounds, threads
        torch.set_num_threads(threads)

    @property
    def dtype(self) -> torch.dtype:
        """What models run in: fp32 on a CPU, bf16 on a GPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def seconds(self, run: Callable[[], object]) -> float:
        """Seconds of one run."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3
        clock = time.process_time if self.threads == 1 else time.perf_counter
        began = clock()
        run()
        return clock() - began

    def turns(self, variants: Mapping[str, Variant], most: int | None = None) -> Times:
        """Run each variant once to warm up, and then in turn, ``rounds`` times, or at ``most`` so many."""
        found: dict[str, list[float]] = {name: [] for name in variants}
        peaks = {name: self._peak(variant) for name, variant in variants.items()}
        for _ in range(self.rounds if most is None else min(self.rounds, most)):
            for name, variant in variants.items():
                found[name].append(self.seconds(variant.run))
        return Times(variants, {name: np.array(values) for name, values in found.items()}, peaks)

    def _peak(self, variant: Variant) -> int | None:
        """Bytes that the warm-up allocates beyond what is allocated already; None on a CPU."""
        if self.device.type != "cuda":
            variant.run()
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        variant.run()
        return torch.cuda.max_memory_allocated(self.device) - before


@dataclass(frozen=True)
class Times:
    """Seconds of several variants, in rounds."""

    variants: Mapping[str, Variant]
    seconds: Mapping[str, np.ndarray]
    peaks: Mapping[str, int | None]

    def ratio(self, a: str, b: str, base: str | None = None) -> Interval:
        """Of the median times of two variants; with a ``base``, of what they add to its time."""
        columns = [self.seconds[name] for name in ((a, b) if base is None else (a, b, base))]

        def statistic(*values: np.ndarray) -> float:
            middle = [float(np.median(x)) for x in values]
            less = middle[2] if base is not None else 0.0
            return (middle[0] - less) / (middle[1] - less)

        return bootstrap(statistic, *columns)

    def limit(self, a: str, b: str, base: str | None = None) -> float | None:
        """The same ratio of their operations, where these are known."""
        counts = [self.variants[name].flops for name in ((a, b) if base is None else (a, b, base))]
        if any(count is None for count in counts):
            return None
        known = [float(count or 0) for count in counts]
        less = known[2] if base is not None else 0.0
        return (known[0] - less) / (known[1] - less)

    def row(
        self, claim: str, a: str, b: str, base: str | None = None, target: float | None = None, at_least: bool = False
    ) -> Row:
        """The row of such a ratio."""
        found, limit = self.ratio(a, b, base), self.limit(a, b, base)
        names = [name for name in (base, a, b) if name is not None]
        return Row(
            claim, *found, target, at_least, limit, "" if limit is None else "operations", "", self.details(names)
        )

    def details(self, names: list[str]) -> dict[str, Any]:
        """Absolute figures of variants."""
        details = {}
        for name in names:
            seconds, variant = float(np.median(self.seconds[name])), self.variants[name]
            figures: dict[str, float] = {"ms": round(1e3 * seconds, 3)}
            if (peak := self.peaks[name]) is not None:
                figures["peak_mb"] = round(peak / 1e6, 1)
                if variant.moved:
                    figures["gb_per_s"] = round(variant.moved / seconds / 1e9, 1)
            if variant.flops:
                figures["gflop_per_s"] = round(variant.flops / seconds / 1e9, 1)
            details[name] = figures
        return details
