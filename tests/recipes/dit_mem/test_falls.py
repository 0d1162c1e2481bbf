"""The preset of falls alone: its clips, the encoder that it starts from, and the loss that reads gravity."""

import dataclasses

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.encoders import FrequencyEncoder
from memkit.memory import Memory
from memkit.worlds.constants import PLANETS
from memkit.worlds.law_clips import clip_ids, law_of
from recipes.dit_mem.parts import new_encoder
from recipes.dit_mem.prepare import ids_of
from recipes.dit_mem.presets import tiny, tiny_falls
from recipes.dit_mem.reading import GravityReader, log_gravities


def test_only_well_seen_bodies_that_drop_or_are_thrown_and_no_test_planet():
    ids = ids_of(tiny_falls(), "train", 200)
    laws = [law_of(id) for id in ids]
    assert len(set(ids)) == 200 and ids[:50] == ids_of(tiny_falls(), "train", 50)
    assert {law.kind for law in laws} == {"drop", "throw"} and {law.size for law in laws} == {"medium", "large"}
    assert not {law.gravity for law in laws} & set(PLANETS["test"].values())
    assert {law.gravity for law in laws} == {*PLANETS["train"].values(), *PLANETS["memory"].values()}
    assert ids_of(tiny(), "train", 20) == clip_ids("train", 20, tiny().seed)


def test_training_starts_from_the_shipped_encoder_with_its_gate():
    config = tiny_falls()
    assert config.start is not None
    backbone, shipped = WanBackbone.tiny(), FrequencyEncoder.from_pretrained(config.start)
    encoder = new_encoder(config, backbone)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), shipped.parameters(), strict=True))
    assert shipped.gate is not None and encoder.gate is not None and all(p.requires_grad for p in encoder.parameters())
    other = new_encoder(dataclasses.replace(config, start=None), backbone)
    assert any(not torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))


def test_gravity_is_read_from_the_tokens_of_real_clips_alone():
    torch.manual_seed(0)
    tokens, truth = torch.randn(2, 6, 8, requires_grad=True), torch.tensor([[0.5, -1.0], [torch.nan, 3.0]])
    mask = torch.tensor([[True, True], [True, False]])
    reader = GravityReader(8)
    loss = reader(Memory(tokens), mask, truth)
    loss.backward()
    assert tokens.grad is not None and loss > 0
    assert (tokens.grad[0].abs().sum(-1) > 0).all() and not tokens.grad[1].any()
    torch.testing.assert_close(loss, reader(Memory(tokens[:1]), mask[:1], truth[:1]))


def test_a_reader_learns_what_tokens_say():
    torch.manual_seed(0)
    truth = torch.randn(64, 1)
    tokens = torch.randn(64, 3, 16) + truth[:, None] * torch.randn(16)
    reader, mask = GravityReader(16), torch.ones(64, 1, dtype=torch.bool)
    optimizer = torch.optim.Adam(reader.parameters(), 0.05)
    before = reader(Memory(tokens), mask, truth)
    for _ in range(100):
        optimizer.zero_grad()
        (loss := reader(Memory(tokens), mask, truth)).backward()
        optimizer.step()
    assert loss < 0.5 * before


def test_labels_are_gravities_and_processes_have_none():
    ids = clip_ids("train", 96, 0)
    labels = log_gravities(ids)
    for id, label in zip(ids, labels.tolist(), strict=True):
        gravity = getattr(law_of(id), "gravity", None)
        assert (label != label) == (gravity is None)
        if gravity is not None:
            assert torch.tensor(label * 0.65).exp() * 7 == pytest.approx(gravity, rel=1e-5)
    known = labels[~labels.isnan()]
    assert abs(known.mean()) < 0.3 and 0.7 < known.std() < 1.3
