"""Echo-Memory's recipe, from rendered rooms to its tables, and with a public checkpoint's layout."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.cameras import read_poses, yaw_degrees
from memkit.errors import InputError
from memkit.rollout.long_videos import chunk_id, frames_id
from memkit.training import load_trainable
from memkit.video import read_video
from recipes.echo_memory import evaluate, generate, prepare, train
from recipes.echo_memory.data import TrainingSet, make_method
from recipes.echo_memory.presets import PRESETS, Config, tiny
from tests.helpers.training_runs import finished, stop_once_saved

FRAMES = 9


@pytest.fixture(scope="module")
def config(random_folder, tmp_path_factory) -> Config:
    out = tmp_path_factory.mktemp("echo")
    made = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, banks=out, device="cpu", batch=2, steps=4, save_every=2,
        log_every=1, warmup=1, text_length=120, sampling_steps=1, video_chunks=2, train_videos=2, frames=2,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(made)) == 0
    return made


def test_the_bank_holds_every_frame_and_batches_show_what_generation_shows(config) -> None:
    bank = MemoryBank.open(config.folder / "train")
    before, target = bank.clip(frames_id("train-00000", 0)), bank.clip(chunk_id("train-00000", 1))
    assert before.latents.shape[1] == FRAMES and target.latents.shape[1] == 3
    assert torch.equal(before.cameras.c2w[-1], target.cameras.c2w[0])  # a chunk begins where the last one ended
    data, backbone = TrainingSet(bank, config), WanBackbone.from_pretrained(config.model)
    batches = [data.batch(step) for step in range(30)]
    assert 0 < sum(not len(batch.history) for batch in batches) < 12
    method = make_method(config, backbone)
    times = {tuple(method.choose(b.history, b.cameras).times[0].tolist()) for b in batches if len(b.history)}
    assert times == {(6, 7)}  # the newest, 8, is the first of the chunk


@pytest.mark.parametrize("trained", ["added", "all"])
def test_training_moves_what_it_says_and_resumes_to_the_bit(config, tmp_path, trained) -> None:
    whole = finished(train, config, tmp_path / "whole", trained=trained, drop_context=0.0)
    own = dataclasses.replace(config, trained=trained, drop_context=0.0)
    backbone = load_trainable(config, torch.device("cpu"), False)
    start = {f"method.{k}": v for k, v in make_method(own, backbone).state_dict().items()}
    start |= {f"transformer.{k}": v for k, v in backbone.transformer.state_dict().items()}
    still = {name for name, value in start.items() if torch.equal(value, whole[name])}
    stock = {name for name in start if name.startswith("transformer.blocks.")}
    assert still == (stock if trained == "added" else set()) and whole.keys() == start.keys() | {"usual"}
    if trained == "all":
        return
    stop_once_saved(train, dataclasses.replace(own, out=tmp_path / "parts"), 2)
    parts = finished(train, config, tmp_path / "parts", trained=trained, drop_context=0.0)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_loss_far_above_the_usual_one_counts_for_nothing(config) -> None:
    backbone = load_trainable(config, torch.device("cpu"), False)
    objective = train.Objective(config, backbone, make_method(config, backbone))
    counted = [float(objective._counts(torch.tensor(loss))) for loss in (1.0, 2.0, 50.0, 4.9)]
    assert counted == [1.0, 1.0, 0.0, 1.0]
    assert float(objective.usual) == pytest.approx(0.99 * (0.99 + 0.02) + 0.01 * 4.9)


def test_it_generates_and_is_evaluated(config, tmp_path) -> None:
    own = dataclasses.replace(config, out=tmp_path, steps=1)
    assert train.main(train.Command(own)) == 0
    assert generate.main(generate.Generate(own, room="test-00000", turns=(45.0, -45.0))) == 0
    assert len(read_video(tmp_path / "generated.mp4").frames) == 1 + 2 * FRAMES
    yaw = yaw_degrees(read_poses(tmp_path / "generated.poses.npz"))
    assert yaw[0] == yaw[1] == 0 and max(yaw) == pytest.approx(45) and yaw[-1] == pytest.approx(0, abs=1e-6)
    command = evaluate.Evaluate(dataclasses.replace(own, model="tiny"), rooms=1, schedules=("no",))
    with pytest.raises(InputError, match="no schedules"):
        evaluate.main(command)
    command = evaluate.Evaluate(own, rooms=1, schedules=("right45_return_2chunk",), keep=1)
    rows = evaluate.evaluate(command)
    still = rows["right45_return_2chunk / still", "test-00000"]
    assert still.closure_psnr == 100 and still.closure_ssim == 1 and math.isnan(still.mirror_psnr)
    assert 5 < still.truth_psnr < rows["right45_return_2chunk / autoencoder", "test-00000"].truth_psnr + 60
    assert rows["right45_return_2chunk", "test-00000"].closure_mse > 0
    assert (tmp_path / "evaluation" / "test-00000-right45_return_2chunk.mp4").exists()
    assert evaluate.evaluate(command).keys() == rows.keys()  # nothing is measured twice
    tables = evaluate.tables(rows, command.schedules)
    assert list(tables["right45_return_2chunk"]) == ["generated", "still", "autoencoder"]


def test_the_presets_are_the_authors_schedule() -> None:
    for name, shift in (("wan2.1-1.3b", 15), ("wan2.1-1.3b-k1", 5)):
        preset = PRESETS[name]()
        assert (preset.lr, preset.schedule, preset.batch, preset.steps) == (5e-5, "constant", 1, 30_000)
        assert (preset.shift, preset.spike, preset.drop_context, preset.trained) == (shift, 5, 0.1, "added")
        assert (preset.guidance_scale, preset.sampling_steps) == (5, 50)
    assert json.dumps(PRESETS["wan2.1-1.3b-k1"]().context_poses) == '"zero"'
