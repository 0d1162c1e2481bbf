"""Memory that is masked or weighted, with attention backends: a mask is added to the logits, or it is refused."""

from __future__ import annotations

import math

import pytest
import torch

from memkit.errors import MemkitError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.attachables import call, seeded
from tests.helpers.random_wan import random_transformer

MASK = torch.tensor([[True, True, False], [True, True, True]])
WEIGHT = torch.tensor([[math.log(3.0), 0.0, math.log(2.0)]] * 2)
MEMORIES = {
    "masked": Memory(seeded(2, 3, 48), MASK),
    "weighted": Memory(seeded(2, 3, 48), None, WEIGHT),
    "both": Memory(seeded(2, 3, 48), MASK, WEIGHT),
}


@torch.no_grad()
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("backend", ["_native_math", "flex"])
def test_backends_that_take_a_mask_give_the_same(backend: str, memory: str) -> None:
    model = random_transformer()
    with SelfAttentionConcat(MEMORIES[memory]).attach(model):
        want = call(model)
        model.set_attention_backend(backend)
        torch.testing.assert_close(call(model), want, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("memory", MEMORIES)
def test_backends_that_take_none_are_refused_by_name(memory: str) -> None:
    model = random_transformer()
    model.set_attention_backend("_native_flash")
    with (
        SelfAttentionConcat(MEMORIES[memory]).attach(model),
        pytest.raises(MemkitError, match="_native_flash.* cannot add log-weights"),
    ):
        call(model)


@torch.no_grad()
def test_what_the_error_advises_works() -> None:
    model, memory = random_transformer(), MEMORIES["weighted"]
    with SelfAttentionConcat(memory).attach(model):
        want = call(model)
    model.set_attention_backend("_native_flash")
    with SelfAttentionConcat(memory.expand()).attach(model):
        torch.testing.assert_close(call(model), want, rtol=0, atol=1e-5)
