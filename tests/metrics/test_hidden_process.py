"""A hidden process: the twin has gone on, a stopped world has not, and what is between is between."""

from __future__ import annotations

import math
import random

import pytest
import torch

from memkit.errors import InputError
from memkit.metrics import measure_hidden_process
from memkit.metrics.hidden_process import moving_pixels
from memkit.worlds import sample_law
from memkit.worlds.event import times

KINDS = ("fill", "swing", "drop")


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_has_gone_on_and_a_stopped_world_has_not(kind) -> None:
    event = sample_law(random.Random(1), "test", (kind,))
    seconds, video = times(17, 8.0), event.video(17, 8.0, 64)
    twin, frozen = video[9:], video[4]
    still = frozen.expand_as(twin)
    gone_on, stopped, half = (
        measure_hidden_process(made, twin, frozen, event, seconds[9:], seconds[4])
        for made in (twin, still, twin // 2 + still // 2)
    )
    assert gone_on.evolution == 1.0 and stopped.evolution == 0.0 and 0.4 < half.evolution < 0.6
    assert gone_on.state_evolution > 0.9 and abs(stopped.state_evolution) < 0.1
    assert gone_on.state_error < 0.01 < stopped.state_error and gone_on.found == stopped.found == 1.0
    assert math.isnan(gone_on.psnr) and 10 < stopped.psnr < 40


def test_without_an_event_all_pixels_count_and_there_is_no_state() -> None:
    generator = torch.Generator().manual_seed(0)
    twin = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8, generator=generator)
    seconds = times(4, 8.0)
    found = measure_hidden_process(twin, twin, twin[0], None, seconds, seconds[0])
    assert found.evolution == 1.0 and math.isnan(found.state_error) and math.isnan(found.state_evolution)
    assert found.found == 0.0
    with pytest.raises(InputError):
        measure_hidden_process(twin[:3], twin, twin[0], None, seconds, seconds[0])


def test_the_pixels_of_what_moves() -> None:
    event = sample_law(random.Random(1), "test", ("drop",))
    seconds, video = times(17, 8.0), event.video(17, 8.0, 64)
    mask = moving_pixels(event, seconds, 64)
    rest = (video != video[:1]).any(-1).any(0) & ~mask.any(0)
    assert 0.001 < mask.float().mean() < 0.5 and rest.float().mean() < 0.1  # shadows and edges alone
