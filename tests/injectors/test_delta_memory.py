"""`DeltaMemory`: the gated delta rule against a sequential reference, and its state from chunk to chunk."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.errors import InputError
from memkit.injectors import DeltaMemory, DeltaMemoryConfig, RecurrentState
from memkit.injectors.delta_memory import DeltaLayer
from tests.helpers.attachables import call, seeded
from tests.helpers.random_wan import random_transformer


def drawn(module):
    for i, parameter in enumerate(module.parameters()):
        parameter.data += 0.2 * seeded(*parameter.shape, seed=20 + i)
    return module.requires_grad_(False)


def one_by_one(layer: DeltaLayer, x: Tensor) -> Tensor:
    """The equations, frame by frame and head by head, in float64, with the matrix of each frame written out."""
    w = {name: value.double() for name, value in layer.state_dict().items()}
    x, size, heads = x.double(), x.shape[3] // layer.heads, range(layer.heads)
    y = torch.empty_like(x)
    for b in range(x.shape[0]):
        frames, states = [], [torch.zeros(size, size, dtype=torch.float64) for _ in heads]
        for t in range(x.shape[1]):
            n = torch.nn.functional.layer_norm(x[b, t], x.shape[3:], w["norm.weight"], w["norm.bias"], layer.norm.eps)
            names = ("to_qkv", "to_beta", "to_gate", "to_swish")
            qkv, beta, gate, swish = (n @ w[f"{name}.weight"].T + w[f"{name}.bias"] for name in names)
            q, k, v = (part.unflatten(1, (layer.heads, size)) for part in qkv.chunk(3, 1))
            g = (-w["log_rate"].exp() * torch.log1p(gate.mean(0).exp())).exp()
            frames.append((k, v, 1 / (1 + (-beta).exp()), g))
            read = []
            for h in heads:
                if t >= layer.window:
                    k, v, beta, g = (
                        part[..., h, :] if part.ndim == 3 else part[..., h] for part in frames[t - layer.window]
                    )
                    key = (k / k.square().mean(1, keepdim=True).sqrt()).clamp(min=0) / (size * len(k)) ** 0.5
                    keep = torch.eye(size, dtype=torch.float64) - key.T @ (beta[:, None] * key)
                    assert torch.linalg.matrix_norm(keep, 2) <= 1 + 1e-9 and 0 < g < 1
                    states[h] = g * keep @ states[h] + key.T @ (beta[:, None] * v)
                out = q[:, h].clamp(min=0) @ states[h]
                read.append(out / (out.square().mean(-1, keepdim=True) + 1e-6).sqrt())
            inner = swish * torch.cat(read, 1)
            y[b, t] = inner / (1 + (-inner).exp()) @ w["out_proj.weight"].T + w["out_proj.bias"]
    return y


@pytest.mark.parametrize("window", [0, 1, 4])
@pytest.mark.parametrize("split", [1, 5, 12])
def test_streamed_it_is_the_sequential_reference(split: int, window: int) -> None:
    layer, x = drawn(DeltaLayer(DeltaMemoryConfig(dim=8, heads=2, window=window))), seeded(2, 12, 3, 8)
    parts, state = [], None
    for part in x.split(split, dim=1):
        y, state = layer(part, state)
        parts.append(y)
        assert layer.fits(state, 3, 8)
    torch.testing.assert_close(torch.cat(parts, 1).double(), one_by_one(layer, x), rtol=0, atol=1e-5)
    assert state.shape == (2, 1, 2 * 16 + window * 24)


def test_what_a_key_says_anew_replaces_what_it_said() -> None:
    """Without fading, the state gives the value that was written last to a key, and others stay."""
    layer = DeltaLayer(DeltaMemoryConfig(dim=4, heads=1)).requires_grad_(False)
    layer.norm = torch.nn.Identity()
    for linear, bias in ((layer.to_beta, 50.0), (layer.to_gate, -50.0), (layer.to_qkv, 0.0)):
        linear.weight.zero_()
        linear.bias.fill_(bias)
    layer.to_qkv.weight[4:7, :3] = torch.eye(3)  # keys of channels 0 to 2; the value is channel 3
    layer.to_qkv.weight[8:, 3] = value = seeded(4, seed=1)
    frames = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 2], [1, 0, 0, 5]])
    _, state = layer(frames[None, :, None])
    torch.testing.assert_close(state.view(4, 4)[:3], torch.tensor([5.0, 2.0, 0.0])[:, None] * value)


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 2])
def test_untrained_it_changes_nothing_and_a_saved_video_continues_to_the_bit(tmp_path, window) -> None:
    model = random_transformer()
    plain, memory = call(model), DeltaMemory(DeltaMemoryConfig.of(model, every=2, window=window))
    with memory.attach(model) as attached, attached.chunk(write=True):
        assert torch.equal(call(model), plain)
    memory, clips = drawn(memory), [seeded(2, 16, n, 4, 4, seed=n) for n in (2, 3, 1)]
    with memory.attach(model) as attached:
        with attached.chunk():
            fresh = call(model, clips[2])
        for clip in clips[:2]:
            with attached.chunk(write=True):
                call(model, clip)
        attached.state.save(tmp_path / "state.safetensors")
        with attached.chunk():
            want = call(model, clips[2])
            assert torch.equal(call(model, clips[2]), want) and (want - fresh).abs().max() > 1e-3
    state = RecurrentState.load(tmp_path / "state.safetensors")
    assert state.nbytes == memory.state_bytes(2, 2, batch=2) and state.frames == 5
    memory.save_pretrained(tmp_path / "memory")
    with DeltaMemory.from_pretrained(tmp_path / "memory").attach(model, state=state) as attached:
        with attached.chunk():
            assert torch.equal(call(model, clips[2]), want)
        with pytest.raises(InputError, match="another model"), attached.chunk():
            state.branch()[1].tensors[0, 0] = torch.zeros(2, 1, 7)
            call(model, clips[2])
    with pytest.raises(InputError, match="create one of its sizes"):
        DeltaMemory(DeltaMemoryConfig()).attach(model)
    assert torch.equal(call(model), plain)
