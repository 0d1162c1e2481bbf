"""The model and the inputs that tests of QueryLayers share."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.helpers.random_wan import random_transformer
from tests.injectors.query_layers.common import FRAMES, PAST


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return random_transformer()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    shape = (2, 16, FRAMES, 4, 4)
    past = torch.randn(2, 16, PAST, 4, 4)
    poses = {"cameras": torch.randn(2, FRAMES, 12), "context_cameras": torch.randn(2, PAST, 12)}
    return {
        "p": torch.randn(shape), "q": torch.randn(shape), "c": past, "t": torch.tensor([700.0, 300.0]),
        "text": torch.randn(2, 5, 32), **poses,
    }  # fmt: skip
