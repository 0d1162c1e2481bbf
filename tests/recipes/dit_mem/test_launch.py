"""Training as it is launched: two processes make the steps of one, sharded weights too, and a killed run goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import FrequencyEncoder
from memkit.errors import InputError
from memkit.training import launch
from memkit.worlds.law_clips import clip_ids
from recipes.dit_mem import train
from recipes.dit_mem.data import TrainingSet
from recipes.dit_mem.parts import load_backbone
from recipes.dit_mem.prepare import render_bank
from recipes.dit_mem.presets import PRESETS, Config, tiny
from recipes.dit_mem.step import by_expert
from tests.helpers.forked import code_of, process, wait_for
from tests.helpers.launching import LAUNCH, arguments, finish, held_share, popen, rows, two_processes


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Four steps of four samples, with its bank."""
    out = tmp_path_factory.mktemp("launched")
    config = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, steps=4, batch=4, pool=4, warmup=2, save_every=2,
        log_every=1, text_length=120, train_clips=12, device="cpu", threads=1, drop_clip=0.5,
    )  # fmt: skip
    render_bank(config.bank, clip_ids("train", config.train_clips, config.seed), config.model, load_backbone(config))
    return config


def command(config: Config) -> list[str]:
    return arguments("recipes.dit_mem.train", config, tiny())


def elsewhere(config: Config, folder: Path, **changes: object) -> Config:
    """The same run in another folder, on the same bank."""
    folder.mkdir()
    (folder / "bank").symlink_to(config.bank, target_is_directory=True)
    return dataclasses.replace(config, out=folder, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(config: Config) -> Config:
    """The run of one process, finished."""
    assert train.main(train.Command(config)) == 0
    return config


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_make_the_steps_of_one_with_the_doubled_batch(alone, tmp_path, shard) -> None:
    both = elsewhere(alone, tmp_path / "both", batch=2, shard=shard)
    if shard:
        printed = two_processes(lambda: train.main(train.Command(both)), tmp_path)
    else:  # as a user does
        printed = finish(popen(*LAUNCH, *command(both)))
    assert (held_share(printed) < 0.55) == shard
    for one, two in zip(rows(alone.out), rows(both.out), strict=True):
        assert one["step"] == two["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["norm"] == pytest.approx(one["norm"], rel=1e-3)
    encoders = [FrequencyEncoder.from_pretrained(config.encoder_folder) for config in (alone, both)]
    for a, b in zip(*(encoder.parameters() for encoder in encoders), strict=True):
        assert (a - b).abs().max() <= 0.05 * alone.lr  # Adam's first steps are the sign of the gradient


def test_a_killed_run_goes_on_to_the_bit(alone, tmp_path) -> None:
    broken = elsewhere(alone, tmp_path / "broken")
    child = process(lambda: train.main(train.Command(broken)))
    wait_for((broken.out / "checkpoint.pt").exists)
    os.kill(child, signal.SIGKILL)
    assert code_of(child) == -signal.SIGKILL
    assert train.main(train.Command(broken)) == 0
    assert rows(broken.out) == rows(alone.out)
    for file in ("model.safetensors", "config.json"):
        assert (broken.encoder_folder / file).read_bytes() == (alone.encoder_folder / file).read_bytes()


def test_each_sample_goes_to_the_expert_of_its_noise_level(config, tmp_path) -> None:
    pipe = WanBackbone.from_pretrained(config.model).pipeline()
    pipe.register_modules(transformer_2=WanBackbone.from_pretrained(config.model).transformer)
    pipe.register_to_config(boundary_ratio=0.875)
    backbone = WanBackbone.from_pipeline(pipe)
    timestep = torch.tensor([900.0, 100.0, 874.9, 875.0])
    (first, high, _), (second, low, _) = by_expert(backbone, timestep)
    assert (first, second) == backbone.transformers and high.tolist() == [0, 3] and low.tolist() == [1, 2]
    (only, every, _), (idle, one, counts) = by_expert(backbone, timestep[[0, 3]], lockstep=True)
    assert only is first and every.tolist() == [0, 1]
    assert idle is second and len(one) == 1 and counts == 0
    # two experts with the same weights are one model
    for of, folder in ((load_backbone(config), "one"), (backbone, "two")):
        of.transformer.requires_grad_(False)
        short = elsewhere(config, tmp_path / folder, steps=2)
        train.train(short, of, TrainingSet(MemoryBank.open(short.bank), short), Accelerator(cpu=True))
    logs = [rows(tmp_path / name) for name in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5) and two["norm"] == pytest.approx(
            one["norm"], rel=1e-3
        )


def test_a_tracker_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="pip install trackio"):
        launch(dataclasses.replace(tiny(), tracker="trackio", device="cpu", out=tmp_path), "memkit", {})


def test_the_large_presets_shard() -> None:
    assert {name for name, preset in PRESETS.items() if preset().shard} == {"wan2.1-14b", "wan2.2-a14b"}
