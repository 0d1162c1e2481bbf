"""The recipe's banks, batches and training: honest memory, exact resumption, a backbone that nothing changes."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import FrequencyEncoder, load_encoder
from memkit.errors import BankError, InputError
from memkit.generation import TextCache
from memkit.generation.short_text import short_text
from memkit.injectors import SelfAttentionConcat
from memkit.training import clip_gradients, prepared, set_learning_rate
from memkit.worlds.law_clips import clip_ids
from recipes.dit_mem.data import Batch, TrainingSet
from recipes.dit_mem.parts import load_backbone, new_encoder, queries
from recipes.dit_mem.prepare import render_bank
from recipes.dit_mem.presets import Config, tiny
from recipes.dit_mem.step import Objective, weighted_mean
from recipes.dit_mem.train import learning_rate, make_optimizer
from recipes.dit_mem.train import train as train_launched
from tests.helpers.own_encoder import Small


def train(config: Config, backbone: WanBackbone, data: TrainingSet) -> FrequencyEncoder:
    return train_launched(config, backbone, data, Accelerator(cpu=True))


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return dataclasses.replace(
        tiny(),
        image_cond_prob=0.6,
        model=str(random_folder),
        out=tmp_path_factory.mktemp("run"),
        steps=6,
        batch=3,
        pool=4,
        warmup=2,
        save_every=3,
        log_every=1,
        text_length=120,
        train_clips=36,
    )


@pytest.fixture(scope="module")
def backbone(config: Config) -> WanBackbone:
    return load_backbone(config)


@pytest.fixture(scope="module")
def bank(config: Config, backbone: WanBackbone) -> MemoryBank:
    render_bank(config.bank, clip_ids("train", config.train_clips, config.seed), config.model, backbone)
    return MemoryBank.open(config.bank)


@pytest.fixture(scope="module")
def data(config: Config, bank: MemoryBank) -> TrainingSet:
    return TrainingSet(bank, config)


def test_an_interrupted_bank_is_completed_and_another_refused(tmp_path, config, backbone) -> None:
    ids = clip_ids("train", 4, 0)
    render_bank(tmp_path / "bank", ids[:2], config.model, backbone)
    first = MemoryBank.open(tmp_path / "bank").latents(ids[:2])
    render_bank(tmp_path / "bank", ids, config.model, backbone)
    bank = MemoryBank.open(tmp_path / "bank")
    assert bank.ids == bank.sources == ids
    assert torch.equal(bank.latents(ids[:2]), first)
    with pytest.raises(BankError, match="other|made with"):
        render_bank(tmp_path / "bank", ids, "another model", backbone)


def test_an_encoder_of_ones_own_is_trained_saved_and_loaded(bank, config, backbone, tmp_path) -> None:
    own = dataclasses.replace(config, encoder="tests.helpers.own_encoder:Small", out=tmp_path, steps=2)
    trained = train(own, backbone, TrainingSet(bank, own))
    loaded = load_encoder(own.encoder_folder, own.encoder)
    assert type(loaded) is type(trained) is Small and loaded.config.dim == backbone.width
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trained.parameters(), strict=True))
    assert (loaded.out.weight != new_encoder(own, backbone).out.weight).any()
    with pytest.raises(InputError, match="or your class"):
        load_encoder(own.encoder_folder)


def test_the_target_is_never_its_own_memory_once_eased_in(data, config) -> None:
    for target, hits in enumerate(data.hits):
        assert len(hits) == config.pool and data.ids[target] not in hits
    batches = [data.batch(step) for step in range((config.steps + 1) // 2, config.steps)]
    for batch in batches:
        same = (batch.memory == batch.latents[:, None]).flatten(2).all(dim=2)
        assert not (same & batch.mask).any()


def test_without_sources_the_target_itself_is_kept_out(bank, config, tmp_path) -> None:
    with MemoryBank.create(tmp_path / "bank") as unsourced:
        for id in bank.ids[:6]:
            clip = bank.clip(id)
            unsourced.add(id, clip.latents, clip.caption)
    data = TrainingSet(unsourced, dataclasses.replace(config, pool=5))
    assert all(len(hits) == 5 and id not in hits for id, hits in zip(data.ids, data.hits, strict=True))


def test_easing_in_shows_the_target_alone_at_the_start(bank, config) -> None:
    data = TrainingSet(bank, dataclasses.replace(config, self_memory_prob=1.0, drop_clip=0.0, batch=8))
    batch = data.batch(0)
    same = (batch.memory == batch.latents[:, None]).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all() and torch.equal(same, batch.mask)


def test_a_batch_is_a_function_of_seed_rank_and_step(data, bank, config) -> None:
    first, again = data.batch(3), data.batch(3)
    assert first.captions == again.captions
    for name in ("latents", "memory", "mask", "noise", "sigma"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    other_seed = TrainingSet(bank, dataclasses.replace(config, seed=config.seed + 1)).batch(3)
    for other in (data.batch(4), data.batch(3, rank=1, processes=2), other_seed):
        assert not torch.equal(first.noise, other.noise) and not torch.equal(first.sigma, other.sigma)


def test_processes_share_the_batch_of_one(bank, config) -> None:
    data = TrainingSet(bank, dataclasses.replace(config, batch=2))
    whole = TrainingSet(bank, dataclasses.replace(config, batch=6)).batch(5)
    for rank in range(3):
        part = data.batch(5, rank, 3)
        assert part.captions == whole.captions[rank::3]
        for name in ("latents", "memory", "mask", "noise", "sigma"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::3])


def test_too_few_clips_are_masked(bank, config, tmp_path) -> None:
    with MemoryBank.create(tmp_path / "bank") as small:
        for i, id in enumerate(bank.ids[:3]):  # the first two are of one source
            clip = bank.clip(id)
            small.add(id, clip.latents, clip.caption, source=["a", "a", "b"][i])
    data = TrainingSet(small, dataclasses.replace(config, self_memory_prob=0.0, drop_clip=0.0))
    assert [len(hits) for hits in data.hits] == [1, 1, 2] and data.short == 3
    batch = data.batch(0)
    assert not batch.memory[~batch.mask].any()
    assert set(batch.mask.sum(dim=1).tolist()) <= {1, 2}


def test_noise_levels_are_those_of_the_release(bank, config) -> None:
    data = TrainingSet(bank, dataclasses.replace(config, batch=1, shift=5.0))
    sigmas = torch.cat([data.batch(step).sigma for step in range(300)])
    u = torch.linspace(1, 0, 1001)[:-1]
    apart = (sigmas[:, None] - 5 * u / (1 + 4 * u)).abs().amin(dim=1)
    assert apart.max() < 1e-6
    assert sigmas.mean() == pytest.approx((5 * u / (1 + 4 * u)).mean().item(), abs=0.05)


def test_queries_keep_what_the_pattern_names(config) -> None:
    caption = "a small red rubber ball falls in a lab on planet Mira"
    assert queries(config, [caption]) == ["rubber planet Mira"]
    processes = {
        "tank fills with wax": "a tank fills with red wax in a lab",
        "block of wax melts": "a block of red wax melts",
    }
    processes |= {"balloon with wax rises": "a red balloon with wax rises at night"}
    assert queries(config, list(processes.values())) == list(processes)
    assert queries(dataclasses.replace(config, query_pattern=""), [caption]) == [caption]
    with pytest.raises(InputError, match="query-pattern"):
        queries(config, ["a dog runs"])


def _losses(backbone, objective: Objective, batch: Batch, length: int) -> torch.Tensor:
    """The loss of each sample; leaves the gradients of the mean."""
    with ExitStack() as attached:
        losses, _ = objective(backbone, TextCache(backbone, length), batch, attached)
        weighted_mean(losses, batch.sigma, "uniform").backward()
    return losses.detach()


def _loss(backbone, config, batch: Batch, length: int) -> tuple[torch.Tensor, FrequencyEncoder]:
    encoder = new_encoder(config, backbone)
    return _losses(backbone, Objective(encoder), batch, length), encoder


def test_gradients_reach_all_of_the_encoder_and_nothing_else(backbone, config, data) -> None:
    _, encoder = _loss(backbone, config, data.batch(0), 512)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert all(p.grad is None and not p.requires_grad for p in backbone.transformer.parameters())


def test_short_text_and_checkpointing_change_nothing(backbone, config, data) -> None:
    batch = data.batch(1)
    plain, encoder = _loss(backbone, config, batch, 512)
    backbone.transformer.enable_gradient_checkpointing()
    with short_text(backbone.transformer, config.text_length):
        other, other_encoder = _loss(backbone, config, batch, config.text_length)
    backbone.transformer.disable_gradient_checkpointing()
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=1e-5)
    for a, b in zip(encoder.parameters(), other_encoder.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-6)


def test_given_frames_are_clean_at_timestep_0_and_bear_no_loss(backbone, config, data) -> None:
    encoder = new_encoder(config, backbone)
    text, batch = TextCache(backbone, config.text_length), dataclasses.replace(data.batch(1), conditioning_frames=1)
    with prepared(backbone, config.text_length, False):
        losses = _losses(backbone, Objective(encoder), batch, config.text_length)
        # by hand: per-token timesteps, clean first frame, the rest of the error
        sigma = batch.sigma[:, None] * (torch.arange(3) >= 1)
        levels = sigma[:, None, :, None, None]
        noisy = (1 - levels) * batch.latents + levels * batch.noise
        steps = 1000 * sigma.repeat_interleave(batch.latents[0, 0, 0].numel() // 4, dim=1)
        memory = encoder(batch.memory, batch.mask)
        with torch.no_grad(), SelfAttentionConcat(memory).attach(backbone.transformer):
            made = backbone.transformer(noisy, steps, text(batch.captions), return_dict=False)[0]
    error = (made - (batch.noise - batch.latents))[:, :, 1:].pow(2).flatten(1).mean(1)
    torch.testing.assert_close(losses, error)
    shares = [data.batch(step).conditioning_frames for step in range(40)]
    assert set(shares) == {0, 1} and shares == [data.batch(step, 1, 2).conditioning_frames for step in range(40)]


class _Stops(TrainingSet):
    """Interrupts the training as a user would."""

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> Batch:
        if step == 4:
            raise KeyboardInterrupt
        return super().batch(step, rank, processes)


@pytest.mark.parametrize(("gate", "encoder"), [(False, "frequency"), (True, "frequency"), (True, "dit_mem")])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, backbone, bank, config, gate, encoder) -> None:
    before = {name: value.clone() for name, value in backbone.transformer.state_dict().items()}
    whole = dataclasses.replace(config, out=tmp_path / "whole", gate=gate, encoder=encoder)  # "dit_mem" has dropout
    train(whole, backbone, TrainingSet(bank, whole))
    broken = dataclasses.replace(whole, out=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(broken, backbone, _Stops(bank, broken))
    train(broken, backbone, TrainingSet(bank, broken))
    for name in ("model.safetensors", "config.json"):
        assert (whole.encoder_folder / name).read_bytes() == (broken.encoder_folder / name).read_bytes()
    assert all(torch.equal(value, before[name]) for name, value in backbone.transformer.state_dict().items())
    rows = [[json.loads(line) for line in (c.out / "log.jsonl").read_text().splitlines()] for c in (whole, broken)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "seconds": 0, "crc32": 0} == {**b, "seconds": 0, "crc32": 0}
    assert [row["step"] for row in rows[0]] == list(range(6))
    loaded = load_encoder(whole.encoder_folder)
    fresh = new_encoder(whole, backbone)
    assert type(loaded) is type(fresh)
    assert any(not torch.equal(a, b) for a, b in zip(loaded.parameters(), fresh.parameters(), strict=True))
    assert (loaded.gate is not None and bool(loaded.gate.weight.any())) == gate


def test_other_settings_are_another_run(tmp_path, backbone, bank, config) -> None:
    short = dataclasses.replace(config, out=tmp_path, steps=1, batch=1)
    train(short, backbone, TrainingSet(bank, short))
    with pytest.raises(InputError, match="lr"):
        train(dataclasses.replace(short, lr=1.0), backbone, TrainingSet(bank, short))


def test_a_bf16_backbone_trains_an_fp32_encoder(tmp_path, bank, config) -> None:
    half = dataclasses.replace(config, out=tmp_path, dtype="bf16", steps=2, weighting="bell", lr=1e-5)
    backbone = load_backbone(half)
    encoder = train(half, backbone, TrainingSet(bank, half))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert backbone.transformer.patch_embedding.weight.dtype == torch.bfloat16
    fresh = new_encoder(half, backbone)
    moved = [bool((a != b).any()) for a, b in zip(encoder.parameters(), fresh.parameters(), strict=True)]
    assert all(moved)


def test_the_gate_starts_where_it_is_told(backbone, config) -> None:
    gate = new_encoder(dataclasses.replace(config, gate=True, gate_start=0.25), backbone).gate
    assert gate is not None and (gate.weight == 0.25).all()


def test_the_average_is_what_is_saved(tmp_path, backbone, bank, config) -> None:
    averaged = dataclasses.replace(config, out=tmp_path / "average", steps=3, ema=0.5)
    train(averaged, backbone, TrainingSet(bank, averaged))
    objective, seen = Objective(new_encoder(averaged, backbone)), []
    optimizer, data = make_optimizer(averaged, objective), TrainingSet(bank, averaged)
    for step in range(3):
        with prepared(backbone, config.text_length, False):
            _losses(backbone, objective.train(), data.batch(step), config.text_length)
        clip_gradients(Accelerator(cpu=True), objective, averaged.clip_norm)
        set_learning_rate(optimizer, learning_rate(averaged, step))
        optimizer.step()
        optimizer.zero_grad()
        seen.append(objective.encoder.out.weight.detach().clone())
    expected = (seen[0] + seen[1]) / 2 * 0.5 + seen[2] * 0.5
    saved = load_encoder(averaged.encoder_folder)
    torch.testing.assert_close(saved.out.weight, expected)
    assert not torch.equal(saved.out.weight, seen[2])


def test_learning_rate() -> None:
    config = dataclasses.replace(tiny(), steps=100, warmup=10)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(config.lr / 10) and max(rates) == pytest.approx(config.lr)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.06 * config.lr
    constant = dataclasses.replace(config, schedule="constant", warmup=0)
    assert {learning_rate(constant, step) for step in range(100)} == {config.lr}
