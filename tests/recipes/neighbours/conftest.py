"""What the tests of all neighbours share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from memkit.generation import short_texts
from tests.helpers.neighbour_videos import backbone


@pytest.fixture(autouse=True)
def texts_are_short() -> Iterator[None]:
    with short_texts(backbone().transformers, 16), torch.no_grad():
        yield


@pytest.fixture
def constant_velocity() -> Iterator[None]:
    """Inside, the model predicts one velocity for all frames, so that a frame which takes every step once ends at its
    noise less that velocity, as every other one does."""
    out = backbone().transformer.proj_out
    before = {name: parameter.clone() for name, parameter in out.state_dict().items()}
    torch.nn.init.zeros_(out.weight)
    yield
    out.load_state_dict(before)
