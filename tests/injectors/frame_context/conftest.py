"""The model and the inputs that the tests of FrameContext share."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.helpers.random_wan import random_transformer
from tests.injectors.frame_context.common import FRAMES, HEIGHT, PAST, WIDTH


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return random_transformer()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "p": torch.randn(2, 16, FRAMES, 2 * HEIGHT, 2 * WIDTH), "c": torch.randn(2, 16, PAST, 2 * HEIGHT, 2 * WIDTH),
        "t": torch.tensor([700.0, 300.0]), "text": torch.randn(2, 5, 32),
        "cameras": torch.randn(2, FRAMES, 12), "context_cameras": torch.randn(2, PAST, 12),
    }  # fmt: skip
