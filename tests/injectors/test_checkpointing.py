"""Gradient checkpointing under everything that attaches: the same gradients, or a clear error."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from memkit.errors import MemkitError
from memkit.injectors import AttentionRecorder, SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.random_wan import random_transformer

# a cache's chunk must be open still (tests/injectors/kv_cache), and guidance is for generation
NAMES = sorted(ATTACHABLES.keys() - {"guided_memory", "kv_cache"})


def gradients(name: str, checkpointing: bool, reentrant: bool = False) -> list[torch.Tensor]:
    model = random_transformer().train()
    if checkpointing and reentrant:
        model.enable_gradient_checkpointing(partial(torch.utils.checkpoint.checkpoint, use_reentrant=True))
    elif checkpointing:
        model.enable_gradient_checkpointing()
    one = ATTACHABLES[name]()
    with one.thing.attach(model) as attached:
        one.forward(model, attached).square().mean().backward()  # the chunk is over by now
    found = [p.grad for p in model.parameters()]
    assert any(g is not None and g.abs().max() > 0 for g in found)
    return [torch.zeros(()) if g is None else g for g in found]


@pytest.mark.parametrize("name", NAMES)
def test_with_reentrant_checkpointing_they_are_the_same_or_it_is_refused(name):
    if name == "query_layers":
        with pytest.raises(MemkitError, match="use_reentrant=False"):
            gradients(name, True, reentrant=True)
        return
    for a, b in zip(gradients(name, False), gradients(name, True, reentrant=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_recorder_counts_a_forward_once_and_one_that_an_error_cut_short_not_at_all():
    model, recorders = random_transformer().train(), [AttentionRecorder(), AttentionRecorder()]
    for recorder in recorders:
        with SelfAttentionConcat(Memory(seeded(1, 5, 48)), recorder).attach(model):
            call(model).sum().backward()
            breaks = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                call(model)
            breaks.remove()
            call(model)
        model.enable_gradient_checkpointing()
    shares = [recorder.shares() for recorder in recorders]
    assert shares[0].shape == (2, 3, 2) and torch.equal(*shares) and (shares[0] > 0).all()
