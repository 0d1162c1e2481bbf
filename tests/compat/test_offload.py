"""Offloading that is not in the matrix, and the rule that it rests on: weights are read through their modules."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload

from tests.helpers.attachables import ATTACHABLES, call
from tests.helpers.random_wan import random_transformer


@torch.no_grad()
@pytest.mark.parametrize("first", ["offloaded_first", "attached_first"])
@pytest.mark.parametrize("name", ATTACHABLES)
def test_offloaded_without_its_buffers_it_gives_the_same(name, first):
    model, offloaded = random_transformer(), random_transformer()
    with (one := ATTACHABLES[name]()).thing.attach(model) as attached:
        want = one.forward(model, attached)
    if first == "offloaded_first":
        cpu_offload(offloaded, execution_device=torch.device("cpu"))
    with (one := ATTACHABLES[name]()).thing.attach(offloaded) as attached:
        if first == "attached_first":
            cpu_offload(offloaded, execution_device=torch.device("cpu"))
        assert torch.equal(one.forward(offloaded, attached), want)
    assert torch.equal(call(offloaded), call(model))


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
def test_weights_are_read_through_their_modules(name):
    """With fused projections and a change of each linear's output, as LoRA and quantisation make it, by a hook."""
    model = random_transformer()
    one = ATTACHABLES[name]()
    with one.thing.attach(model) as attached:
        plain = one.forward(model, attached)
    outs = []
    for fused in (False, True):
        other = random_transformer()
        if fused:
            other.fuse_qkv_projections()
        for block in other.blocks:
            names = ["to_qkv"] if fused else ["to_q", "to_k", "to_v"]
            for linear in (getattr(block.attn1, name) for name in names):
                linear.register_forward_hook(lambda _m, _a, out: 1.5 * out + 0.1)
        with one.thing.attach(other) as attached:
            outs.append(one.forward(other, attached))
    torch.testing.assert_close(*outs, rtol=0, atol=1e-5)
    assert (outs[0] - plain).abs().max() > 1e-3
