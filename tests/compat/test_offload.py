"""Whatever offloads a model's weights, everything that attaches gives what it gives without: on a CPU, to the bit."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from tests.helpers.attachables import ATTACHABLES, call
from tests.helpers.random_wan import random_transformer

CPU = torch.device("cpu")


def grouped(model, folder, kind: str) -> None:
    """diffusers' group offload, to disk: so weights are not there outside of their forward, even on a CPU."""
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type=kind, offload_to_disk_path=str(folder), **blocks
    )


OFFLOADS = {
    "group, by block, to disk": lambda model, folder: grouped(model, folder, "block_level"),
    "group, by leaf, to disk": lambda model, folder: grouped(model, folder, "leaf_level"),
    "sequential": lambda model, folder: cpu_offload(model, execution_device=CPU),
    "sequential, with buffers": lambda model, folder: cpu_offload(model, execution_device=CPU, offload_buffers=True),
    "disk": lambda model, folder: disk_offload(model, str(folder), execution_device=CPU),
}


@torch.no_grad()
@pytest.mark.parametrize("offload", OFFLOADS)
def test_without_memory_the_offloaded_model_is_the_model(tmp_path, offload):
    model, offloaded = random_transformer(), random_transformer()
    OFFLOADS[offload](offloaded, tmp_path)
    assert torch.equal(call(offloaded), call(model))


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloaded_it_gives_the_same(tmp_path, offload, name):
    model, offloaded = random_transformer(), random_transformer()
    OFFLOADS[offload](offloaded, tmp_path)
    with (one := ATTACHABLES[name]()).thing.attach(model) as attached:
        want = one.forward(model, attached)
    with (one := ATTACHABLES[name]()).thing.attach(offloaded) as attached:
        got = one.forward(offloaded, attached)
    assert torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
def test_attached_before_it_is_offloaded_it_gives_the_same(tmp_path, name):
    model, offloaded = random_transformer(), random_transformer()
    with (one := ATTACHABLES[name]()).thing.attach(model) as attached:
        want = one.forward(model, attached)
    with (one := ATTACHABLES[name]()).thing.attach(offloaded) as attached:
        cpu_offload(offloaded, execution_device=CPU)
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
