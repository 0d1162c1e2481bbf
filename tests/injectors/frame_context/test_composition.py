"""FrameContext with conditioning frames, memory tokens and guided memory; what it cannot be combined with."""

from __future__ import annotations

import pytest
import torch

from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError, MemkitError
from memkit.generation import GuidedMemory, conditioning_frames
from memkit.injectors import KVCache, QueryLayers, QueryLayersConfig, SelfAttentionConcat, TeacherForcing
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.differ import differ
from tests.injectors.frame_context.common import (
    CELLS,
    CLOSE,
    FRAMES,
    PAST,
    call,
    context,
    poses,
    run,
    stock_on_all_frames,
)


@pytest.mark.parametrize("omega", [1.0, 1.5])
@torch.no_grad()
def test_conditioning_frames_in_either_order(model, inputs, omega) -> None:
    conditioning = torch.randn(1, 16, 1, 4, 6)
    x = {**inputs, "p": torch.cat([conditioning.expand(2, -1, -1, -1, -1), inputs["p"][:, :, 1:]], dim=2)}
    times = inputs["t"][:, None].repeat(1, FRAMES * CELLS)
    times[:, :CELLS] = 0
    shown = call(model, x, p=torch.cat([x["c"], x["p"]], 2), t=torch.cat([torch.zeros(2, PAST * CELLS), times], 1))
    without = call(model, x, t=times)
    expected = without + omega * (shown[:, :, PAST:] - without)
    frames = context()
    with conditioning_frames(conditioning, model):
        torch.testing.assert_close(run(model, frames, inputs, inputs["c"], history_guidance=omega), expected, **CLOSE)
    with (
        frames.attach(model) as attached,
        attached.chunk(inputs["c"], history_guidance=omega),
        conditioning_frames(conditioning, model),
    ):
        torch.testing.assert_close(call(model, inputs), expected, **CLOSE)
        for t in (inputs["t"][:, None], inputs["t"][:, None].expand(2, FRAMES * CELLS)):
            torch.testing.assert_close(call(model, inputs, t=t), expected, **CLOSE)


@torch.no_grad()
def test_memory_tokens_in_either_order(model, inputs) -> None:
    memory, frames = SelfAttentionConcat(Memory(torch.randn(2, 4, 48))), context(cameras=0.3)
    with memory.attach(model):
        expected = stock_on_all_frames(model, inputs)
        # memory tokens have no position, so the result is the same at other positions
        at = {"context_positions": range(PAST), "positions": range(PAST, PAST + FRAMES)}
        torch.testing.assert_close(run(model, frames, inputs, inputs["c"], **at), expected, **CLOSE)
        one = run(model, frames, inputs, inputs["c"])
        posed = run(model, frames, inputs, inputs["c"], **poses(inputs))
    with frames.attach(model) as attached, memory.attach(model), attached.chunk(inputs["c"]):
        assert torch.equal(call(model, inputs), one)
    alone = run(model, frames, inputs, inputs["c"])
    assert differ(one, alone, atol=1e-3) and differ(one, posed, atol=1e-3)
    with SelfAttentionConcat(Memory(torch.randn(2, 4, 48), torch.zeros(2, 4, dtype=torch.bool))).attach(model):
        assert torch.equal(run(model, frames, inputs, inputs["c"]), alone)


@torch.no_grad()
def test_what_else_places_the_frames_is_refused(model, inputs) -> None:
    before = call(model, inputs)
    query = QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=2))
    for other in (KVCache(1 << 20), query, TeacherForcing()):
        for pair in ((context(), other), (other, context())):
            with pair[0].attach(model), pytest.raises(InputError, match="positions in time"):
                pair[1].attach(model)
    assert torch.equal(call(model, inputs), before)


@torch.no_grad()
@pytest.mark.parametrize("cameras_first", [True, False])
def test_camera_positions_know_no_frames_of_a_context(model, inputs, cameras_first) -> None:
    before, frames, cameras = call(model, inputs), context(), PMRoPE(PMRoPEConfig.of(model))
    eye = Cameras(torch.eye(4).repeat(1, FRAMES, 1, 1), torch.tensor([1.0, 1.0, 0.5, 0.5]).repeat(1, FRAMES, 1))
    pair = (cameras, frames) if cameras_first else (frames, cameras)
    with pair[0].attach(model) as a, pair[1].attach(model) as b:
        mine, its = (b, a) if cameras_first else (a, b)
        with (
            mine.chunk(inputs["c"]),
            its.chunk(CameraPath.of(eye)),
            pytest.raises(MemkitError, match="camera positions"),
        ):
            call(model, inputs)
    assert torch.equal(call(model, inputs), before)


@torch.no_grad()
def test_guided_memory_goes_along_but_for_two_guidances_at_once(model, inputs) -> None:
    memory, frames = SelfAttentionConcat(Memory(torch.randn(2, 4, 48))), context()
    own = run(model, frames, inputs, inputs["c"])
    with memory.attach(model):
        shown = run(model, frames, inputs, inputs["c"])
    with frames.attach(model) as attached, GuidedMemory(memory, 2.0).attach(model):
        with attached.chunk(inputs["c"]), model.cache_context("cond"):
            torch.testing.assert_close(call(model, inputs), own + 2.0 * (shown - own), **CLOSE)
        with (
            attached.chunk(inputs["c"], history_guidance=1.5),
            model.cache_context("cond"),
            pytest.raises(MemkitError, match="one guidance or the other"),
        ):
            call(model, inputs)
