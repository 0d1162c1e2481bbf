"""FrameContext as a module: gradient checkpointing, two experts, half precision, saving."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memkit.injectors import FrameContext
from tests.helpers.random_wan import random_transformer
from tests.injectors.frame_context.common import CONFIG, PACKED, call, context, poses, run


@pytest.mark.parametrize("config", [CONFIG, PACKED])
def test_gradient_checkpointing_gives_the_same_gradients(inputs, config) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, frames = random_transformer().train(), context(config, cameras=0.3)
        if checkpointing:
            model.enable_gradient_checkpointing()
        latents = inputs["c"].clone().requires_grad_()
        with frames.attach(model) as attached:
            with attached.chunk(latents, **poses(inputs)):
                loss = call(model, inputs).square().sum()
            with attached.chunk(None):  # the chunk that is open during backward does not matter
                loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in frames.parameters())
        assert latents.grad is not None and latents.grad.any()
        gradients.append([latents.grad, *(p.grad for p in [*frames.parameters(), *model.parameters()])])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_both_experts_and_half_precision(model, inputs) -> None:
    other, frames = random_transformer(5), context(PACKED, cameras=0.3)
    expected = [run(m, frames, inputs, inputs["c"], **poses(inputs)) for m in (model, other)]
    with frames.attach(model, other) as attached, attached.chunk(inputs["c"], **poses(inputs)):
        assert all(torch.equal(call(m, inputs), e) for m, e in zip((model, other), expected, strict=True))
    half, x = random_transformer().bfloat16(), {n: v.bfloat16() for n, v in inputs.items()}
    for own in (frames, context(PACKED, cameras=0.3).bfloat16()):
        output = run(half, own, x, inputs["c"], **poses(inputs))
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), expected[0], atol=0.1, rtol=0.05)


def test_saved_and_loaded(tmp_path, model, inputs) -> None:
    frames = context(dataclasses.replace(PACKED, keep_start=True, cameras=("exact", "estimated")), cameras=0.3)
    frames.save_pretrained(tmp_path)
    again = FrameContext.from_pretrained(tmp_path)
    assert again.config == frames.config
    with torch.no_grad():
        for kind in frames.config.cameras:
            arguments = {**poses(inputs), "annotation": kind}
            output = [run(model, x, inputs, inputs["c"], **arguments) for x in (frames, again)]
            assert torch.equal(*output)
