"""Clips of the laws world, generated and measured: the row of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from memkit.metrics import measure_law
from memkit.metrics.states import frame_shares
from recipes.dit_mem.laws import constants_of, law_of


@dataclass(frozen=True)
class Row:
    """One clip: the constants it should have (``true``), those of the clips it was shown (``told``, their mean) and
    those that were ``fitted``; a fit without a value is left out. Errors are shares of the frame's width, NaN if the
    body was not found.
    """

    id: str
    condition: str
    shown: list[str]
    found: bool
    true: dict[str, float]
    told: dict[str, float]
    fitted: dict[str, float]
    path_error: float
    """Distance from the true path, whose start no caption tells."""
    law_residual: float
    """Distance from the nearest path under the true constants."""


def measure(video: UInt8[Tensor, "t h w c"], id: str, condition: str, shown: Sequence[str], fps: float) -> Row:
    """One row."""
    law = law_of(id)
    found, share = measure_law(video, law, fps), frame_shares(law)
    clips = [constants_of(law_of(clip)) for clip in shown]
    told = {name: [clip[name] for clip in clips if name in clip] for name in law.constants}
    return Row(
        id,
        condition,
        list(shown),
        found.found,
        constants_of(law),
        {name: sum(values) / len(values) for name, values in told.items() if values},
        {name: value for name, value in found.constants.items() if not math.isnan(value)},
        found.state_error * share,
        found.law_residual * share,
    )
