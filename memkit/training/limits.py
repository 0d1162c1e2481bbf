"""Ranges of the numbers in settings, by name: a typing error ends at once, not after hours or out of memory."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, NamedTuple

from memkit.errors import InputError

MOST_PIXELS = 1 << 32
"""Of a clip; as floats on three channels they are 48 GiB."""


class Range(NamedTuple):
    """The numbers that settings of some names may have."""

    names: str
    """A regular expression of the whole name."""
    low: float
    high: float
    text: str = ""
    """What to give instead of another number; by default one from ``low`` to ``high``."""

    def refuse(self, name: str, value: float) -> None:
        """Raises `InputError` for a number out of the range; NaN is in none."""
        if not self.low <= value <= self.high:
            told = self.text or f"a number from {self.low:g} to {self.high:g}"
            raise InputError(f"--{name.replace('_', '-')} is {value}; give {told}.")


_TINY = math.ulp(0.0)  # the least number above 0
RANGES = (
    Range(r"seeds?|.*_seed|run", -(2**62), 2**62, "an integer of at most 62 bits"),
    Range(r"lr|.*_lr", _TINY, 1e3, "a number above 0 and up to 1000"),
    Range(r"drop_.*|.*_(prob|drop|degraded)|noisy_memory|reference|ema", 0, 1),
    Range(r"clip_norm", _TINY, math.inf, "a number above 0"),
    Range(r"shift|flow_shift|fps", _TINY, 1e4, "a number above 0 and up to 10000"),
    Range(r"fov_degrees", _TINY, math.nextafter(180, 0), "an angle between 0 and 180"),
    Range(r"budget", 1, 2**62, "a number of bytes, 1 or more"),
    Range(r"blocks", -1000, 1000),
    Range(r"threads", 0, 4096),
    Range(r"jobs|workers", 1, 1024),
    Range(r"batch|gradient_accumulation_steps|text_length|sampling_steps|videos_at_once|at_once", 1, 100_000),
    Range(r"frames|height|width|.*_frames|.*_latents|k|chunk|video_chunks|layers|heads|.*_dim", 1, 100_000),
    Range(r"save_every|log_every", 1, 10**9),
    Range(r"steps|.*_steps|warmup|measure_at", 0, 10**9),
    Range(r"clips|rooms|pairs|prompts|videos_per_prompt", 1, 10**6),
    Range(r".*_clips|.*_videos|keep|pool|first|chunks|event_chunks", 0, 10**6),
)
"""The first that fits a name counts. Any other number has to be finite, and an integer in 64 bits."""
_OTHERS = Range(".*", -(2.0**62), 2.0**62, "a finite number")


class CheckedSettings:
    """A base of dataclasses whose numbers, alone and in tuples, are compared with `RANGES` when they are made.

    Raises `InputError` that names the flag of the setting.
    """

    def __post_init__(self) -> None:
        settings: Any = self
        for field in dataclasses.fields(settings):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    next((r for r in RANGES if re.fullmatch(r.names, field.name)), _OTHERS).refuse(field.name, number)
        values = (getattr(self, name, None) for name in ("frames", "height", "width"))
        sizes = [value for value in values if isinstance(value, int)]
        if len(sizes) == 3 and math.prod(sizes) > MOST_PIXELS:
            raise InputError(f"Clips of {sizes[0]} frames of {sizes[1]}×{sizes[2]} are too large; give smaller ones.")
