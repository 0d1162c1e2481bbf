"""FrameContext equals the stock model on all frames at once, and the stock model itself without context."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.differ import differ
from tests.injectors.frame_context.common import (
    CLOSE,
    FRAMES,
    PACKED,
    PAST,
    call,
    context,
    poses,
    run,
    stock_on_all_frames,
)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("noisy", [False, True])
@torch.no_grad()
def test_it_is_the_stock_model_on_all_frames(model, inputs, rows, noisy) -> None:
    x = {**inputs, "c": inputs["c"][:rows].expand(2, -1, -1, -1, -1)}
    past = torch.rand(rows, PAST) * 1000 if noisy else None
    expected = stock_on_all_frames(model, x, None if past is None else past.expand(2, -1))
    # rotary attention depends only on differences of positions, so −n…F−1 gives the same as 0…n+F−1
    for shifted in ({}, {"context_positions": range(PAST), "positions": range(PAST, PAST + FRAMES)}):
        output = run(model, context(), x, inputs["c"][:rows], context_timesteps=past, **shifted)
        torch.testing.assert_close(output, expected, **CLOSE)
    assert differ(expected, call(model, x), atol=1e-3)


@torch.no_grad()
def test_with_nothing_given_and_after_detaching_it_is_the_stock_model(model, inputs) -> None:
    before = call(model, inputs)
    with context(PACKED, cameras=0.3).attach(model) as attached:
        for nothing in (None, inputs["c"][:, :, :0]):
            with attached.chunk(nothing, context_cameras=None if nothing is None else torch.zeros(1, 0, 12)):
                assert torch.equal(call(model, inputs), before)
        with attached.chunk(inputs["c"], history_guidance=0):
            assert torch.equal(call(model, inputs), before)
        with attached.chunk(inputs["c"], history_guidance=1.5, **poses(inputs)):
            assert differ(call(model, inputs), before, atol=1e-3)
    assert torch.equal(call(model, inputs), before)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@torch.no_grad()
def test_poses_of_the_prediction_need_no_context(model, inputs) -> None:
    frames = context(cameras=0.3)
    alone = run(model, frames, inputs, None, cameras=inputs["cameras"])
    assert differ(alone, call(model, inputs), atol=1e-3)
    # the frames themselves as context, at their own positions and timesteps, double every key, which changes nothing
    twice = run(
        model, frames, inputs, inputs["p"], cameras=inputs["cameras"], context_cameras=inputs["cameras"],
        context_positions=range(FRAMES), context_timesteps=inputs["t"][:, None].expand(2, FRAMES),
    )  # fmt: skip
    torch.testing.assert_close(alone, twice, **CLOSE)
    untrained = context()  # its camera layers are zeros
    assert torch.equal(run(model, untrained, inputs, None, cameras=inputs["cameras"]), call(model, inputs))


@torch.no_grad()
def test_poses_may_be_given_of_the_context_alone(model, inputs) -> None:
    frames, zero = context(cameras=0.3), {name: torch.zeros_like(x) for name, x in poses(inputs).items()}
    for layer in frames.cameras["exact"].layers:  # then a pose vector of zeros adds nothing
        layer.bias.zero_()
    for name in zero:
        output = run(model, frames, inputs, inputs["c"], **{name: inputs[name]})
        torch.testing.assert_close(output, run(model, frames, inputs, inputs["c"], **{**zero, name: inputs[name]}))
