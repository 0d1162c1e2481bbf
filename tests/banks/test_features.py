"""Features are what the encoder makes of a clip alone, bit for bit; another encoder, a kill or damage is noticed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from memkit.banks import FeatureBank, MemoryBank, padded_latents
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig, MemoryEncoder, MemoryGate, load_dit_mem
from memkit.errors import BankError, InputError
from memkit.memory import Memory
from tests.helpers.forked import code_of, process
from tests.helpers.released_encoder import CONFIG, release_state_dict
from tests.helpers.small_banks import bits, latents


def frequency(seed: int = 0) -> MemoryEncoder:
    torch.manual_seed(seed)
    return FrequencyEncoder(FrequencyEncoderConfig(
        dim=24, hidden=8, width=16, heads=2, layers=1, stem_stride=(1, 2, 2), patch=(1, 2, 2), norm_groups=2
    )).eval().requires_grad_(False)  # fmt: skip


@pytest.fixture
def bank(tmp_path: Path) -> MemoryBank:
    """Clips of two lengths."""
    bank = MemoryBank.create(tmp_path / "bank")
    with bank:
        for n in range(5):
            bank.add(f"clip{n}", latents(n, (16, 2 + n // 4, 4, 4), torch.bfloat16), f"caption {n}")
    return bank


def assert_same(one: Memory, other: Memory) -> None:
    for a, b in ((one.tokens, other.tokens), (one.log_weight, other.log_weight), (one.gate, other.gate)):
        assert a is b is None or (a is not None and b is not None and torch.equal(bits(a), bits(b)))
    assert one.mask is other.mask is None or (one.mask is not None and torch.equal(one.mask, other.mask))


def test_they_are_those_of_each_clip_alone_and_survive(bank):
    encoder = frequency()
    encoder.gate = MemoryGate(2, 2, 0.5)
    features = FeatureBank(bank, encoder)
    assert features.fill() == 5 and features.fill() == 0 and len(features) == 5 and not features.missing()
    bank.add("more", latents(9, (16, 2, 4, 4)), "fp32")
    again = FeatureBank(MemoryBank.open(bank.path), encoder)
    assert again.missing() == ["more"] and again.fill(["more", "clip0"]) == 1
    for id in bank.ids:
        assert_same(again([[id]]), encoder(bank.latents([id])).detach())
    rows = [["clip0", "clip3"], ["clip1"], []]
    memory = again(rows)
    assert memory.mask is not None and memory.mask.unflatten(1, (2, -1)).all(2).tolist() == [[1, 1], [1, 0], [0, 0]]
    for tokens, mask, row in zip(memory.tokens, memory.mask, rows, strict=True):
        alone = [again([[id]]).tokens[0] for id in row]
        assert torch.equal(tokens[mask], torch.cat([*alone, tokens[:0]])) and not tokens[~mask].any()
    with pytest.raises(InputError, match="shape"):
        again([["clip0", "clip4"]])
    assert sorted(path.name for path in (bank.path / "features").iterdir()) == [features.digest[:16]]


def test_released_tokens_whose_clips_see_each_other(tmp_path):
    """The attention between clips is computed anew; equal up to rounding, as the encoder has other batches."""
    bank = MemoryBank.create(tmp_path / "bank")
    for n in range(3):
        bank.add(f"{n}", latents(n, (3, 13, 13, 13)), "")
    encoder = load_dit_mem(release_state_dict(), CONFIG).eval()
    features = FeatureBank(bank, encoder)
    features.fill()
    assert_same(features([["1"]]), encoder(bank.latents(["1"])).detach())
    rows = [["2", "0"], ["1"]]
    with torch.no_grad():
        want, got = encoder(*padded_latents(bank, rows, 2)), features(rows)
    torch.testing.assert_close(got.tokens, want.tokens, rtol=1e-4, atol=1e-5)
    assert got.log_weight is not None and torch.equal(got.logits(), want.logits()) and got.tokens.shape[1] == 4


def test_another_encoder_finds_none_of_them(bank):
    encoder = frequency()
    features = FeatureBank(bank, encoder)
    features.fill(["clip0", "clip1"])
    for other in (frequency(seed=1), frequency().bfloat16()):
        with pytest.raises(InputError, match="'clip0' has no features.*fill"):
            FeatureBank(bank, other)([["clip0"]])
    assert FeatureBank(bank, frequency())([["clip0"]]).tokens.shape[0] == 1  # equal weights
    next(encoder.parameters()).add_(1e-3)
    for call in (lambda: features([["clip0"]]), features.fill):
        with pytest.raises(InputError, match="encoder has changed"):
            call()
    for wrong in ([["clip3"]], [["clip9"]], [[]], "clip0"):
        with pytest.raises(InputError):
            FeatureBank(bank, frequency())(wrong)
    with pytest.raises(InputError, match="training mode"):
        FeatureBank(bank, frequency().train())
    with pytest.raises(InputError, match="local folder"):
        FeatureBank(MemoryBank.open(f"file://{bank.path}"), frequency())


def test_a_kill_loses_nothing_that_was_committed(bank, monkeypatch):
    monkeypatch.setattr("memkit.banks.features.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def dies() -> None:
        features = FeatureBank(bank, frequency())
        encode, count = features._encode, []
        features._encode = lambda id: os.kill(os.getpid(), signal.SIGKILL) if len(count) == 3 else (
            count.append(id), encode(id))[1]  # fmt: skip
        features.fill()

    assert code_of(process(dies)) == -signal.SIGKILL
    features = FeatureBank(bank, frequency())
    assert features.missing() == ["clip3", "clip4"] and features.fill() == 2
    assert_same(features([["clip1"]]), frequency()(bank.latents(["clip1"])))


def test_damage_is_named(bank):
    features = FeatureBank(bank, frequency())
    features.fill()
    shard = features.path / "shards" / "000000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    broken = FeatureBank(bank, frequency())
    with pytest.raises(BankError, match="is damaged"):
        [broken([[id]]) for id in bank.ids]
