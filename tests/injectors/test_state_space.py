"""`StateSpaceMemory`: the recurrence against a sequential reference, and its state from chunk to chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.errors import FileError, InputError, MemkitError
from memkit.injectors import KVCache, RecurrentState, StateSpaceConfig, StateSpaceMemory, frame_bytes
from memkit.injectors.state_space import StateSpaceLayer, scan
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.backbones import BACKBONES
from tests.helpers.random_wan import random_pipeline, random_transformer


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    for i, parameter in enumerate(module.parameters()):
        parameter.data = 0.3 * seeded(*parameter.shape, seed=20 + i)
    return module.requires_grad_(False)


def memory_of(model, **config) -> StateSpaceMemory:
    return drawn(StateSpaceMemory(StateSpaceConfig.of(model, **config)))  # type: ignore[return-value]


def one_by_one(layer: StateSpaceLayer, x: Tensor) -> Tensor:
    """The equations of Echo-Memory's causal_v2, frame by frame, place by place, in float64."""
    w = {name: value.double() for name, value in layer.state_dict().items()}
    x, a = x.double(), 1 / (1 + (-w["decay_logit"]).exp())
    scale = 1.0 if "residual_logit" not in w else 0.1 + 0.1 / (1 + (-w["residual_logit"]).exp())
    y = torch.empty_like(x)
    for b, s in ((b, s) for b in range(x.shape[0]) for s in range(x.shape[2])):
        h = torch.zeros(x.shape[-1], dtype=torch.float64)
        for t in range(x.shape[1]):
            n = x[b, t, s]
            n = (n - n.mean()) / (n.var(correction=0) + layer.norm.eps).sqrt() * w["norm.weight"] + w["norm.bias"]
            u, g = (w["in_proj.weight"] @ n + w["in_proj.bias"]).chunk(2)
            h = a * h + (1 - a) * u.tanh()
            y[b, t, s] = scale * (w["out_proj.weight"] @ (h / (1 + (-g).exp())) + w["out_proj.bias"])
    return y


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("split", [1, 3, 7, 21, 42, 84])
def test_streamed_it_is_the_sequential_reference(split: int, scaled: bool) -> None:
    layer, x = drawn(StateSpaceLayer(8, scaled=scaled)), seeded(2, 84, 3, 8)
    layer.decay_logit.data[:4] = torch.tensor([-40.0, -4.0, 4.0, 40.0])  # forgets all at once, or nothing ever
    parts, h = [], None
    for part in x.split(split, dim=1):
        y, h = layer(part, h)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1).double(), one_by_one(layer, x), rtol=0, atol=1e-5)


def test_later_frames_change_nothing_before_them_and_long_videos_stay_finite() -> None:
    u, logit = seeded(1, 400, 1, 6), torch.linspace(-90, 90, 6).requires_grad_()
    h = scan(u, logit)
    assert torch.equal(scan(u[:, :9], logit), h[:, :9]) or (scan(u[:, :9], logit) - h[:, :9]).abs().max() < 1e-6
    h.square().mean().backward()
    assert h.isfinite().all() and logit.grad.isfinite().all()  # type: ignore[union-attr]


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in BACKBONES if "state_space" not in BACKBONES[name].refused])
def test_it_begins_as_nothing_on_every_model_and_leaves_nothing(name: str) -> None:
    backbone = BACKBONES[name]
    model = backbone.make()
    base, memory = backbone.call(model), StateSpaceMemory(StateSpaceConfig.of(model, every=2))
    with memory.attach(model) as attached, attached.chunk(write=True):
        assert torch.equal(backbone.call(model), base)
    with drawn(memory).attach(model, state=attached.state) as attached, attached.chunk():
        assert (backbone.call(model) - base).abs().max() > 1e-3
    assert attached.state.frames == backbone.num_frames
    assert torch.equal(backbone.call(model), base)


def test_at_first_only_its_output_is_trained_and_state_carries_gradients_where_asked() -> None:
    model = random_transformer().requires_grad_(False)
    memory = StateSpaceMemory(StateSpaceConfig.of(model, every=2))
    with memory.attach(model) as attached, attached.chunk():
        call(model).square().mean().backward()
    trained = {name.split(".", 2)[2] for name, p in memory.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"out_proj.weight", "out_proj.bias"}
    memory = memory_of(model, every=2).requires_grad_()
    weight = memory.get_parameter("layers.0.in_proj.weight")
    found = []
    for through_time in (False, True):
        with memory.attach(model) as attached:
            with attached.chunk(write=True, through_time=through_time):
                call(model)
            assert attached.state.branch()[1].tensors[0, 0].requires_grad == through_time
            with attached.chunk():
                call(model).square().mean().backward()
        found.append(weight.grad)
        weight.grad = None
    assert (found[1] - found[0]).abs().max() > 1e-3 * found[0].abs().max()


@torch.no_grad()
def test_denoising_passes_begin_at_one_state_and_a_saved_video_continues_to_the_bit(tmp_path) -> None:
    model = random_transformer()
    memory = memory_of(model)
    clips = [seeded(2, 16, n, 4, 4, seed=n) for n in (2, 3, 1)]
    with memory.attach(model) as attached:
        for clip in clips[:2]:
            with attached.chunk():
                first = call(model, clip)
                assert torch.equal(call(model, clip), first)  # nothing is written
            with attached.chunk(write=True):
                call(model, seeded(*clip.shape, seed=99))  # the last pass counts
                call(model, clip)
        attached.state.save(tmp_path / "state.safetensors")
        with attached.chunk():
            want = call(model, clips[2])
    state = RecurrentState.load(tmp_path / "state.safetensors")
    assert state.frames == 5 and state.nbytes == memory.state_bytes(2, 2, batch=2)
    memory.save_pretrained(tmp_path / "memory")
    with StateSpaceMemory.from_pretrained(tmp_path / "memory").attach(model, state=state) as attached:
        with attached.chunk():
            assert torch.equal(call(model, clips[2]), want)
        with pytest.raises(ZeroDivisionError), attached.chunk(write=True):
            call(model, clips[2])
            _ = 1 / 0
        with attached.chunk():
            assert torch.equal(call(model, clips[2]), want)
        state.reset()
        with attached.chunk():
            assert not torch.equal(call(model, clips[2]), want)
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    with pytest.raises(FileError):
        RecurrentState.load(file)


@torch.no_grad()
def test_branches_and_experts_have_states_of_their_own() -> None:
    pipe = random_pipeline(boundary_ratio=0.7)
    memory, state = memory_of(pipe.transformer), RecurrentState(("cond", "uncond"))
    with memory.attach(pipe, state=state) as attached:
        with attached.chunk(write=True):
            for name in state.branches:
                for expert in (pipe.transformer, pipe.transformer_2):
                    with expert.cache_context(name):
                        call(expert, seeded(2, 16, 3, 4, 4, seed=len(name)))
        states = [state.branch(name)[1].tensors[i, 0] for name in state.branches for i in range(2)]
        assert not any(torch.equal(a, b) for i, a in enumerate(states) for b in states[:i])
        with pytest.raises(MemkitError, match="branch 'uncond'"), attached.chunk(write=True):
            for expert in (pipe.transformer, pipe.transformer_2):
                with expert.cache_context("cond"):
                    call(expert)
        assert state.frames == 3
        with pytest.raises(InputError, match="no branch None"), attached.chunk():
            call(pipe.transformer)
    alone, lone = RecurrentState(), pipe.transformer
    with memory.attach(lone, state=alone) as attached:
        with pytest.raises(InputError, match="branch for each"), attached.chunk(write=True):
            for name in ("cond", "uncond"):
                with lone.cache_context(name):
                    call(lone)
        assert alone.frames == 0


@torch.no_grad()
def test_what_it_refuses() -> None:
    model = random_transformer()
    memory, state = memory_of(model), RecurrentState()
    with pytest.raises(InputError, match="create one of its sizes"):
        StateSpaceMemory(StateSpaceConfig()).attach(model)
    with memory.attach(model, state=state) as attached:
        with pytest.raises(MemkitError, match="outside a chunk"):
            call(model)
        with pytest.raises(InputError, match="state is attached already"):
            memory_of(model).attach(random_transformer(1), state=state)
        with attached.chunk(write=True):
            call(model)
        with pytest.raises(InputError, match="batch of 2.*batch of 1"), attached.chunk():
            model(seeded(1, 16, 3, 4, 4), torch.tensor([5.0]), seeded(1, 6, 32))
        with pytest.raises(InputError, match="rows and columns"), attached.chunk():
            call(model, seeded(2, 16, 3, 2, 8))
        held = state.branch()[1].tensors[0, 0].clone()
        with pytest.raises(InputError, match="NaN or infinite"), attached.chunk(write=True):
            call(model, torch.full((2, 16, 3, 4, 4), torch.nan))
        assert torch.equal(state.branch()[1].tensors[0, 0], held) and state.frames == 3
        for other in (ATTACHABLES["frame_context"](), ATTACHABLES["teacher_forcing"]()):
            state.reset()
            with other.thing.attach(model) as on, attached.chunk(), pytest.raises(InputError, match="of one chunk"):
                other.forward(model, on)
    with memory.attach(model, state=(mine := RecurrentState())) as attached, attached.chunk(write=True):
        call(model)
    with pytest.raises(InputError, match="not of 1 transformers"):
        memory_of(model, every=1).attach(model, state=mine)
    assert not mine.attached


@torch.no_grad()
def test_with_a_cache_a_stream_goes_on_from_both_in_any_order() -> None:
    model = random_transformer()
    memory, outs = memory_of(model, every=2), []
    for cache_first in (True, False):
        cache, state = KVCache(9 * frame_bytes(model, 4, 4, 2)), RecurrentState()
        first = cache.attach(model) if cache_first else memory.attach(model, state=state)
        with first, memory.attach(model, state=state) if cache_first else cache.attach(model) as second:
            on_cache, on_memory = (first, second) if cache_first else (second, first)
            for at in range(3):
                with on_cache.chunk([at], write=True), on_memory.chunk(write=True):
                    out = call(model, seeded(2, 16, 1, 4, 4, seed=at))
        outs.append(out)
    assert torch.equal(*outs) and state.frames == 3 and cache.branch().positions == (0, 1, 2)
