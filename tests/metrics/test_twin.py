"""What sets a clip apart from its twin: path, colour, detail, motion."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch

from memkit.metrics import compare_with_twin
from memkit.metrics.states import FRAME
from memkit.worlds import sample_law


def test_a_twin_that_is_the_same_moved_or_of_another_colour() -> None:
    law = sample_law(random.Random(3), "test", ("drop",))
    video = law.video()
    same = compare_with_twin(video, video, law, 8.0)
    assert (same.path_distance, same.colour_distance, same.squared_error, same.found) == (0, 0, 0, True)
    assert same.law_residual < 0.005
    moved = dataclasses.replace(law, x=law.x - math.copysign(0.4, law.x))
    off = compare_with_twin(moved.video(), video, law, 8.0)
    assert off.path_distance == pytest.approx(0.4 / FRAME, rel=0.05) and off.colour_distance < 0.05
    assert off.law_residual < 0.005 and off.squared_error > 0  # the law says nothing of where it starts
    hidden = video.clone()
    hidden[6:] = 128
    assert math.isnan(compare_with_twin(hidden, video, law, 8.0).path_distance)  # six frames of 17 tell too little
    hue = next(colour for colour in ("red", "blue") if colour != law.colour)
    other = compare_with_twin(dataclasses.replace(law, colour=hue).video(), video, law, 8.0)
    assert not other.found and math.isnan(other.path_distance) and math.isnan(other.colour_distance)


def test_detail_and_motion_are_told_apart() -> None:
    law = sample_law(random.Random(3), "test", ("drop",))
    stripes = torch.zeros(6, 32, 32, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255  # half a cycle a pixel
    slow = (127 + 100 * (2 * math.pi * torch.arange(32) / 32).sin()).to(torch.uint8).expand(6, 32, 32)[..., None]
    fine, coarse = (compare_with_twin(v, v, law, 8.0) for v in (stripes, slow.expand(-1, -1, -1, 3).contiguous()))
    assert fine.fine > 0.99 and coarse.fine < 0.01 and fine.motion == coarse.motion == 0
    blinking = torch.stack([torch.full((32, 32, 3), 51 * (i % 2), dtype=torch.uint8) for i in range(6)])
    assert compare_with_twin(blinking, blinking, law, 8.0).motion == pytest.approx(0.2)
