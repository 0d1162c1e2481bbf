"""The state-space mechanism of the probes: what reaches the chunk, and what is trained for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memkit.probes import ProbeSettings, import_mechanism, make_probe
from memkit.probes.training import predict

PATH = "memkit.probes.mechanisms.state_space:CarriedState"


@pytest.mark.parametrize("matrix", [False, True])
def test_the_past_reaches_the_chunk_through_a_state_of_constant_size_which_is_trained(matrix: bool) -> None:
    model, task = ProbeSettings(blocks=2, heads=2, batch=3).model(0), make_probe("recall")
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.normal_()
    mechanism = import_mechanism(PATH)(model, task, matrix=matrix)
    batch = task.sample(torch.Generator().manual_seed(2), 3)
    noise = torch.randn(batch.target.shape)
    plain = predict(model, mechanism, batch.without_memory(), noise)
    assert torch.equal(predict(model, mechanism, batch, noise), plain)  # W_out begins at 0
    for layer in mechanism.memory.layers.values():
        torch.nn.init.normal_(layer.out_proj.weight, std=0.3)
    out = predict(model, mechanism, batch, noise)
    shuffled = replace(batch, memory=batch.memory.flip(0))
    assert (out - predict(model, mechanism, shuffled, noise)).abs().max() > 1e-4
    assert mechanism.held_bytes(batch) == mechanism.held_bytes(batch.newest(1))
    assert mechanism.held_bytes(batch) == 2 * 4 * (48 * 48 // 2 if matrix else 4 * 48)
    assert mechanism.held_bytes(batch.without_memory()) == 0
    with mechanism.shown(model, batch):
        model(batch.target, torch.full((3,), 500.0), batch.text, return_dict=False)[0].square().mean().backward()
    layer = mechanism.memory.layers["0"]
    assert (layer.to_qkv if matrix else layer.in_proj).weight.grad.any()
    assert not any(module._forward_hooks for module in model.modules())
