"""The scheduler of a pipeline with another flow shift."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from memkit.checks import check_number
from memkit.flow import SHIFTS


def make_scheduler(pipe: DiffusionPipeline, shift: float | None = None) -> Any:
    """A new scheduler with the configuration of the pipeline's; ``shift`` replaces its flow shift unless None.

    Schedulers keep state between steps (their step index, earlier predictions), so that each sampling loop outside the
    pipeline needs its own.

    Raises `InputError` for a shift outside of `memkit.flow.SHIFTS`.
    """
    if shift is not None:
        check_number("shift", shift, *SHIFTS)
    found: Any = pipe.scheduler
    name = "flow_shift" if "flow_shift" in found.config else "shift"
    return type(found).from_config(found.config, **({} if shift is None else {name: shift}))
