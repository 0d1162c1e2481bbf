"""Fine-tuning all weights, which memory is compared with: honest data, the plain loss, exact resumption."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.generation import TextCache, conditioning_frames
from memkit.training import fingerprint, prepared
from memkit.worlds.law_clips import FALLS, PROCESSES, clip_ids, law_of
from recipes.dit_mem.data import Samples
from recipes.dit_mem.evaluate import CEILINGS, Evaluate, open_evaluator
from recipes.dit_mem.parts import load_backbone
from recipes.dit_mem.prepare import render_bank
from recipes.dit_mem.presets import Config, parse, tiny
from recipes.dit_mem.step import flow_losses
from recipes.dit_mem.studies.full import OTHER_LAWS, Full, fine_tune, losses_on, main, other_laws, training_clips
from recipes.dit_mem.studies.tuning import Clips, Tuning

PROMPTS = 2


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """With a test bank of six clips and a training bank of three."""
    out = tmp_path_factory.mktemp("banks")
    config = dataclasses.replace(
        tiny(),
        model=str(random_folder),
        out=out,
        banks=out,
        batch=3,
        warmup=2,
        save_every=2,
        log_every=1,
        text_length=120,
        sampling_steps=2,
        videos_at_once=2,
        device="cpu",
    )
    backbone = load_backbone(config)
    for path, part, count in ((config.test_bank, "test", 6), (config.bank, "train", 3)):
        render_bank(path, clip_ids(part, count, config.seed), config.model, backbone)
    return config


@pytest.fixture(autouse=True)
def few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.dit_mem.studies.full.OTHER_CLIPS", 7)


@pytest.fixture
def backbone(config: Config) -> WanBackbone:
    return load_backbone(config)


@pytest.fixture(scope="module")
def bank(config: Config) -> MemoryBank:
    return MemoryBank.open(config.test_bank)


def command_in(out: Path, config: Config, **changes: object) -> Full:
    made = Full(dataclasses.replace(config, out=out), full_steps=6, full_lr=3e-3, clips=PROMPTS, keep=0)
    return dataclasses.replace(made, **changes)


def same(a: Samples, b: Samples) -> bool:
    tensors = [(getattr(a, name), getattr(b, name)) for name in ("latents", "noise", "sigma")]
    return (
        a.captions == b.captions
        and all(torch.equal(x, y) for x, y in tensors)
        and a.conditioning_frames == b.conditioning_frames
    )


def test_no_prompt_is_among_the_clips(config, bank) -> None:
    command = command_in(config.out, config)
    prompts = set(open_evaluator(Evaluate(command.tuned, clips=PROMPTS)).targets)
    clips = training_clips(command, bank)
    assert set(clips.ids) == set(bank.ids) - prompts and len(prompts) == PROMPTS
    shown = {bank.ids[i]: bank.latents([bank.ids[i]])[0, 0] for i in range(PROMPTS)}
    for step in range(10):
        for latents in clips.batch(step).latents:
            assert not any(torch.equal(latents, prompt) for prompt in shown.values())
    encoders = training_clips(dataclasses.replace(command, data="train"), bank)
    assert encoders.ids == clip_ids("train", 3, config.seed) and encoders.bank.path == config.bank


def test_data_that_is_missing_is_named(tmp_path, config, bank) -> None:
    with pytest.raises(InputError, match="besides"):
        training_clips(command_in(tmp_path, config, clips=len(bank)), bank)
    elsewhere = dataclasses.replace(config, banks=tmp_path)
    with pytest.raises(InputError, match="prepare"):
        training_clips(command_in(tmp_path, elsewhere, data="train"), bank)


def test_a_batch_is_a_function_of_seed_and_step(config, bank) -> None:
    ids = bank.ids[PROMPTS:]
    first = Clips(bank, ids, config).batch(3)
    assert same(first, Clips(bank, ids, config).batch(3))
    others = [Clips(bank, ids, config).batch(4), Clips(bank, ids, dataclasses.replace(config, seed=1)).batch(3)]
    for other in others:
        assert not torch.equal(first.noise, other.noise) and not torch.equal(first.sigma, other.sigma)
    captions = {caption for step in range(20) for caption in Clips(bank, ids, config).batch(step).captions}
    assert captions - {""} == {law_of(id).caption for id in ids} and "" in captions


def test_noise_levels_are_spread_over_those_of_training(config, bank) -> None:
    sigma = Clips(bank, bank.ids, dataclasses.replace(config, batch=50, shift=3.0)).batch(0).sigma
    u = sigma / (3 - 2 * sigma)  # before the shift
    levels = ((1 - u) * 1000).round()  # of 1000, 20 in each stratum
    assert (levels // 20).tolist() == list(range(50)) and len(set((levels % 20).tolist())) > 5


def test_the_loss_is_flow_matching(config, backbone, bank) -> None:
    samples = dataclasses.replace(Clips(bank, bank.ids, config).batch(0), conditioning_frames=0)
    with prepared(backbone, config.text_length, False), ExitStack() as attached:
        losses = flow_losses(backbone, TextCache(backbone, config.text_length), samples, attached)
    for i, loss in enumerate(losses):
        x, noise, sigma = samples.latents[i : i + 1], samples.noise[i : i + 1], samples.sigma[i : i + 1]
        noisy, text = (1 - sigma) * x + sigma * noise, backbone.encode_text(samples.captions[i : i + 1])
        velocity = backbone.transformer(noisy, 1000 * sigma, text).sample
        torch.testing.assert_close(loss, ((noise - x) - velocity).square().mean(), rtol=1e-4, atol=1e-5)


def test_given_frames_are_clean_and_have_no_loss(config, backbone, bank) -> None:
    clips = Clips(bank, bank.ids, dataclasses.replace(config, image_cond_prob=0.6))
    shares = [clips.batch(step).conditioning_frames for step in range(40)]
    assert set(shares) == {0, 1} and abs(sum(shares) / 40 - 0.6) < 0.25
    samples = dataclasses.replace(clips.batch(0), conditioning_frames=1)
    with prepared(backbone, config.text_length, False), ExitStack() as attached:
        losses = flow_losses(backbone, TextCache(backbone, config.text_length), samples, attached)
    for i, loss in enumerate(losses):
        x, noise, sigma = samples.latents[i : i + 1], samples.noise[i : i + 1], samples.sigma[i : i + 1]
        noisy, text = (1 - sigma) * x + sigma * noise, backbone.encode_text(samples.captions[i : i + 1])
        with conditioning_frames(x[:, :, :1], backbone.transformer):
            velocity = backbone.transformer(noisy, 1000 * sigma, text).sample
        error = ((noise - x) - velocity).square()[:, :, 1:].mean()
        torch.testing.assert_close(loss, error, rtol=1e-4, atol=1e-5)


def test_every_weight_is_trained_and_the_loss_falls(tmp_path, config, backbone, bank) -> None:
    command = command_in(tmp_path, config, full_steps=20)
    before = {name: value.clone() for name, value in backbone.transformer.state_dict().items()}
    rest = [backbone.pipeline().vae, backbone.pipeline().text_encoder]
    others = fingerprint(*rest)
    clips = training_clips(command, bank)
    fixed = clips.batch(100)
    text = TextCache(backbone, 512)
    untrained = losses_on(text, fixed, 2)
    tuning = Tuning(backbone, clips, {})
    assert tuning.parameters == sum(value.numel() for value in before.values())
    tuning.until(20)
    assert losses_on(text, fixed, 2).mean() < 0.9 * untrained.mean()
    still = [name for name, value in backbone.transformer.state_dict().items() if torch.equal(value, before[name])]
    assert not still and fingerprint(*rest) == others


class Stops(Clips):
    """Interrupts the training as a user would."""

    def batch(self, step: int) -> Samples:
        if step == 5:
            raise KeyboardInterrupt
        return super().batch(step)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, config, bank) -> None:
    def tuning(name: str, kind: type[Clips] = Clips) -> Tuning:
        tuned = command_in(tmp_path / name, config).tuned
        return Tuning(load_backbone(config), kind(bank, bank.ids[PROMPTS:], tuned), {"who": "I"})

    whole = tuning("whole")
    whole.until(6)
    broken = tuning("broken", Stops)
    broken.until(3)
    broken.kept[3] = torch.ones(2)
    with pytest.raises(KeyboardInterrupt):
        broken.until(6)
    again = tuning("broken")
    assert again.step == 4 and torch.equal(again.kept[3], torch.ones(2))
    again.until(6)
    assert fingerprint(whole.weights) == fingerprint(again.weights) != fingerprint(load_backbone(config).transformer)
    states = [torch.load(run.file, weights_only=True) for run in (whole, again)]
    for name, value in states[0]["weights"].items():
        assert torch.equal(value, states[1]["weights"][name])
    rows = [[json.loads(line) for line in (run.config.out / "log.jsonl").open()] for run in (whole, again)]
    assert [{**row, "seconds": 0, "crc32": 0} for row in rows[0]] == [
        {**row, "seconds": 0, "crc32": 0} for row in rows[1]
    ]
    assert [row["step"] for row in rows[0]] == list(range(6))
    assert 0 < again.seconds(3) <= again.seconds(6) == rows[1][-1]["seconds"]


def test_weights_in_bf16_are_refused(tmp_path, config, bank) -> None:
    half = load_backbone(dataclasses.replace(config, dtype="bf16"))
    with pytest.raises(InputError, match="fp32"):
        Tuning(half, Clips(bank, bank.ids, command_in(tmp_path, config).tuned), {})


def test_forgetting_is_measured_on_other_laws_from_fixed_noise(config, backbone) -> None:
    assert not {*OTHER_LAWS} & {*FALLS, *PROCESSES} and len(OTHER_LAWS) == 8
    samples = other_laws(backbone, config.shift)
    assert same(samples, other_laws(backbone, config.shift)) and len(samples.captions) == 7
    text = TextCache(backbone, 512)
    torch.testing.assert_close(losses_on(text, samples, 7), losses_on(text, samples, 3))


def test_the_command_writes_tables_and_goes_on(tmp_path, config, random_folder, capsys, monkeypatch) -> None:
    shipped = {path: path.read_bytes() for path in sorted(random_folder.rglob("*")) if path.is_file()}
    flags = ["--model", str(random_folder), "--out", str(tmp_path), "--banks", str(config.banks), "--batch", "2"]
    flags += ["--text-length", "120", "--sampling-steps", "2", "--clips", "2", "--keep", "1", "--device", "cpu"]
    flags += ["--full-steps", "2", "--measure-at", "0", "1", "--seeds", "42", "7"]
    command = parse(Full, None, flags)
    assert main(command) == 0
    printed, numbers = capsys.readouterr().out, json.loads((tmp_path / "full.json").read_text())
    assert "| none |" in printed and "| 1 steps |" in printed and "| 2 steps |" in printed
    cost = numbers["cost"]
    assert list(cost) == ["none", "1 steps", "2 steps"]
    frozen, last = cost["none"], cost["2 steps"]
    start = load_backbone(config)
    weights = sum(p.numel() for p in start.transformer.parameters())
    assert last["trained, M"]["value"] == weights / 1e6 and last["clips of data"]["value"] == 4
    assert frozen["trained, M"]["value"] == frozen["less the frozen one's"]["value"] == 0
    change = last["loss on other laws, 1/1000"]["value"] - frozen["loss on other laws, 1/1000"]["value"]
    assert change == pytest.approx(last["less the frozen one's"]["value"]) and change != 0
    assert last["gravity, less none"].keys() == {"value", "low", "high"}
    assert len((config.test_bank.parent / "measured-without.jsonl").read_text().splitlines()) == 1 + 3 * PROMPTS
    assert len(list((tmp_path / "full" / "evaluation").glob("*.mp4"))) == 2
    saved, other = (
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["weights"] for run in ("full", "seed-7/full")
    )
    assert not any(torch.equal(saved[name], other[name]) for name in saved)
    moved = [not torch.equal(saved[f"0.{name}"], value) for name, value in start.transformer.state_dict().items()]
    assert all(moved)
    assert {path: path.read_bytes() for path in shipped} == shipped

    monkeypatch.setattr("recipes.dit_mem.evaluate.generate_videos", None)  # all is measured
    runs = [fine_tune(command.run(seed)) for seed in (42, 7)]
    assert set(runs[0].rows) == {
        (name, id) for name in [*CEILINGS, *cost] for id in clip_ids("test", PROMPTS, config.seed)
    }
    assert sum(run.seconds[2] for run in runs) / 2 == last["training, s"]["value"]
    for steps, row in zip(runs[0].forgot, cost.values(), strict=True):
        losses = torch.stack([run.forgot[steps] for run in runs])
        assert 1000 * losses.mean().item() == pytest.approx(row["loss on other laws, 1/1000"]["value"])
    with pytest.raises(InputError, match="steps"):
        main(dataclasses.replace(command, full_steps=3))
    with pytest.raises(InputError, match="within"):
        main(dataclasses.replace(command, measure_at=(3,)))


def test_a_step_that_is_past_is_not_made_up(tmp_path, config) -> None:
    command = command_in(tmp_path, config, full_steps=2)
    fine_tune(command)
    with pytest.raises(InputError, match="past step 1"):
        fine_tune(dataclasses.replace(command, measure_at=(1,)))
