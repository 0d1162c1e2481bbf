"""The gate travels: from the folder into the encoder, from the encoder into its memory, from there into the model."""

import json
import os
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from memkit import FrequencyEncoder, SelfAttentionConcat, WanBackbone
from memkit.demo.demo import ENCODER
from memkit.encoders import EncoderName, MemoryGate, load_encoder, make_encoder, mix_branches
from memkit.errors import InputError
from memkit.memory import Memory
from tests.helpers.random_wan import random_transformer

FILES = ["config.json", "model.safetensors"]
each = pytest.mark.parametrize("name", get_args(EncoderName))


def clips(seed=0) -> torch.Tensor:
    return torch.randn(1, 2, 16, 5, 8, 8, generator=torch.Generator().manual_seed(seed))


def gated(name: EncoderName = "patch", start: float = 0.3):
    encoder = make_encoder(name, "tiny", dim=48).eval()
    encoder.gate = MemoryGate(3, 2, start)
    return encoder


def run(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(shape, generator=generator) for shape in ((1, 16, 3, 4, 4), (1, 6, 32)))
    return model(latents, torch.tensor([700.0]), text, return_dict=False)[0]


@torch.no_grad()
def test_the_shipped_encoder_loads_with_its_gate_and_gives_the_explicitly_gated_output():
    model, weight = WanBackbone.tiny().transformer, load_file(ENCODER / "model.safetensors")["gate.weight"]
    assert weight.abs().mean() > 0.05
    generator = torch.Generator().manual_seed(2)
    latents, text = torch.randn(1, 16, 5, 8, 8, generator=generator), torch.randn(1, 6, 128, generator=generator)

    def velocity(memory: Memory) -> torch.Tensor:
        with SelfAttentionConcat(memory).attach(model):
            return model(latents, torch.tensor([700.0]), text, return_dict=False)[0]

    memory = FrequencyEncoder.from_pretrained(ENCODER)(clips())
    assert memory.gate is not None and torch.equal(memory.gate, weight.tanh())
    explicit = Memory(memory.tokens, memory.mask, memory.log_weight, weight.tanh())
    assert torch.equal(velocity(memory), velocity(explicit))
    ungated = velocity(Memory(memory.tokens))
    assert not torch.allclose(velocity(memory), ungated, atol=1e-3)


@each
def test_every_encoder_gives_its_gate_with_its_memory_and_none_without(name):
    encoder = gated(name)
    assert torch.equal(encoder(clips()).gate, torch.full((3, 2), 0.3).tanh())
    if name != "patch":
        assert torch.equal(mix_branches(encoder, clips(), clips(1)).gate, encoder(clips()).gate)
    encoder.gate = None
    assert encoder(clips()).gate is None


@each
def test_the_gate_is_saved_and_loaded_with_the_encoder(name, tmp_path):
    encoder = gated(name)
    plain = make_encoder(name, "tiny", dim=48)
    plain.load_state_dict({key: value for key, value in encoder.state_dict().items() if not key.startswith("gate.")})
    encoder.save_pretrained(tmp_path / "gated")
    plain.save_pretrained(tmp_path / "plain")
    assert sorted(file.name for file in (tmp_path / "gated").iterdir()) == FILES
    with_gate, without = (load_file(tmp_path / kind / "model.safetensors") for kind in ("gated", "plain"))
    assert torch.equal(with_gate.pop("gate.weight"), encoder.gate.weight)
    assert with_gate.keys() == without.keys() and all(torch.equal(with_gate[key], without[key]) for key in without)
    loaded = load_encoder(tmp_path / "gated")
    assert loaded.gate is not None and torch.equal(loaded.gate.weight, encoder.gate.weight)
    assert load_encoder(tmp_path / "plain").gate is None
    plain.save_pretrained(tmp_path / "gated")  # an earlier gate does not stay with another encoder
    assert load_encoder(tmp_path / "gated").gate is None


@each
def test_a_gate_that_an_earlier_version_saved_as_a_file_of_its_own_is_loaded(name, tmp_path):
    encoder = gated(name)
    tensors = {key: x for key, x in encoder.state_dict().items() if not key.startswith("gate.")}
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["_weights"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    save_file({"weight": encoder.gate.weight.detach()}, tmp_path / "gate.safetensors")
    assert torch.equal(load_encoder(tmp_path).gate.weight, encoder.gate.weight)
    load_encoder(tmp_path).save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    assert torch.equal(load_encoder(tmp_path).gate.weight, encoder.gate.weight)


@each
@pytest.mark.parametrize("saved", [0, 1])
def test_a_save_that_is_interrupted_has_saved_all_or_nothing(name, saved, tmp_path, monkeypatch):
    before, after = gated(name), make_encoder(name, "tiny", dim=72)
    before.save_pretrained(tmp_path)
    replaced = []

    def replace(*names: object) -> None:
        if len(replaced) == saved:
            raise KeyboardInterrupt
        replaced.append(os.rename(*names))

    monkeypatch.setattr("memkit.files.atomic.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        after.save_pretrained(tmp_path)
    want, loaded = (before, after)[saved], load_encoder(tmp_path)
    assert loaded.config == want.config and (loaded.gate is None) == (want.gate is None)
    assert all(torch.equal(x, want.state_dict()[key]) for key, x in loaded.state_dict().items())


def test_gradients_reach_the_gate_and_the_encoder_through_memory():
    model, encoder = random_transformer().requires_grad_(False), gated()
    with SelfAttentionConcat(encoder(clips())).attach(model):
        run(model).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert (encoder.gate.weight.grad != 0).all()
    with torch.no_grad():
        assert encoder(clips()).gate.requires_grad is False


def test_a_memory_keeps_its_gate_whatever_is_done_to_it():
    gate = torch.rand(3, 2, requires_grad=True)
    memory = Memory(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool), torch.full((2, 3), 2.0).log(), gate)
    changed = [memory.to("cpu", torch.bfloat16), memory.rows(torch.tensor([1])), memory.expand(), memory.detach()]
    for other in (*changed, Memory.cat([memory, memory]), Memory.cat([memory.detach(), memory])):
        assert torch.equal(other.gate, gate) and other.gate.dtype == torch.float32
    assert not memory.detach().gate.requires_grad and Memory.cat([memory, memory]).gate.requires_grad
    for other in (None, gate + 0.1, torch.rand(2, 2)):
        for order in ((memory, Memory(memory.tokens, gate=other)), (Memory(memory.tokens, gate=other), memory)):
            with pytest.raises(InputError, match="different gates"):
                Memory.cat(order)
