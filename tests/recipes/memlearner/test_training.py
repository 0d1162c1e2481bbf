"""MemLearner's training: it moves everything, resumes to the bit, and starts from other runs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.rollout.saved import camera_encoders, copy_camera_encoders
from memkit.training import launch, load_trainable
from recipes.memlearner import train
from recipes.memlearner.data import TrainingSet
from recipes.memlearner.methods import load_method, make_method
from recipes.memlearner.presets import PRESETS, MethodName
from tests.helpers.memlearner_runs import trained
from tests.helpers.training_runs import stop_once_saved

METHODS: tuple[MethodName, ...] = ("learned", "cam", "window", "framepack", "separate", "none")


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_everything_and_resumes_to_the_bit(config, tmp_path, method) -> None:
    whole = trained(config, tmp_path / "whole", method=method)
    backbone = load_trainable(config, torch.device("cpu"), False)
    own = dataclasses.replace(config, method=method)
    start = {f"method.{k}": v for k, v in make_method(own, backbone).state_dict().items()}
    start |= {f"transformer.{k}": v for k, v in backbone.transformer.state_dict().items()}
    assert start.keys() == whole.keys()
    still = {name for name, value in start.items() if torch.equal(value, whole[name])}
    own_head = {name for name in still if "module.wan" in name}  # used in pre-training alone
    assert still == own_head and (not still or method == "separate")

    stop_once_saved(train, dataclasses.replace(own, out=tmp_path / "parts"), 2)
    parts = trained(config, tmp_path / "parts", method=method)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_starts_from_another_run_s_cameras(config, tmp_path) -> None:
    trained(config, tmp_path / "base", method="none", steps=2)
    own = dataclasses.replace(config, method="learned", start=tmp_path / "base")
    backbone = load_trainable(own, torch.device("cpu"), False, own.start)
    method = make_method(own, backbone)
    copy_camera_encoders(method, tmp_path / "base" / "method")
    base = load_method(dataclasses.replace(config, method="none"), backbone, tmp_path / "base" / "method")
    assert torch.equal(method.query.cameras.exact.layers[0].weight, base.context.cameras.exact.layers[0].weight)
    assert method.query.cameras.exact.layers[0].weight.any()
    with pytest.raises(InputError, match="method"):
        load_method(own, backbone, tmp_path / "base" / "method")
    with pytest.raises(InputError, match="no method"):
        copy_camera_encoders(method, tmp_path)


@pytest.mark.parametrize("method", ["learned", "separate"])
def test_each_kind_of_poses_has_an_encoder_and_unknown_ones_are_zeros(config, walks, tmp_path, method) -> None:
    own = dataclasses.replace(
        config, out=tmp_path, method=method, steps=8, annotations=("exact", "estimated", "none"),
        more_banks=(walks["estimated"], walks["none"]),
    )  # fmt: skip
    kinds = [MemoryBank.open(bank) for bank in (own.folder / "train", *own.more_banks)]
    drawn = [TrainingSet(kinds, own, "chunks").batch(step).annotation for step in range(own.steps)]
    assert set(drawn) == set(own.annotations)
    assert train.main(train.Command(own)) == 0
    backbone = load_trainable(own, torch.device("cpu"), False, tmp_path)
    encoders = camera_encoders(load_method(own, backbone, tmp_path / "method"))
    for name, encoder in encoders.items():
        assert encoder.layers[0].bias.any()  # all of them start at zero
        assert encoder.layers[0].weight.any() == (name != "none")
    plain = make_method(dataclasses.replace(own, annotations=("estimated",)), backbone)
    copy_camera_encoders(plain, tmp_path / "method")
    assert torch.equal(camera_encoders(plain)["estimated"].layers[0].weight, encoders["estimated"].layers[0].weight)


def test_a_module_learns_alone_first(config, tmp_path) -> None:
    own = {"method": "separate", "pretrain_steps": 3, "camera_lr": 1e-3}
    begun = dataclasses.replace(config, method="separate")
    backbone = load_trainable(begun, torch.device("cpu"), False)
    start = {f"method.{name}": x for name, x in make_method(begun, backbone).state_dict().items()}
    start |= {f"transformer.{name}": x for name, x in backbone.transformer.state_dict().items()}
    alone = trained(config, tmp_path / "alone", **own, steps=0)
    moved = {name for name, x in alone.items() if not torch.equal(x, start[name])}
    assert moved and all(name.startswith("method.module.") for name in moved)
    assert any("proj_out" in name for name in moved)
    after = trained(config, tmp_path / "after", **own, steps=1)
    assert not torch.equal(after["transformer.proj_out.weight"], start["transformer.proj_out.weight"])
    log = [json.loads(line) for line in (tmp_path / "after" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [0, 1, 2, 3]
    with pytest.raises(InputError, match="'separate'"):
        trained(config, tmp_path / "no", method="learned", pretrain_steps=1)


def test_another_run_s_checkpoint_is_refused(config, tmp_path) -> None:
    trained(config, tmp_path, method="none", steps=2)
    with pytest.raises(InputError, match="lr"):
        trained(config, tmp_path, method="none", steps=2, lr=1.0)


def test_presets_are_whole() -> None:
    assert set(PRESETS) == {"tiny", "gallery", "wan2.1-1.3b", "wan2.2-5b"}
    for name, make in PRESETS.items():
        assert name == "gallery" or (make().layers <= 5 and make().chunks == 9)


def test_two_processes_would_share_gradients(config, tmp_path) -> None:
    """Without a past not all parts have gradients; all processes must have those of the same parameters."""
    own = dataclasses.replace(config, out=tmp_path, method="learned", chunks=0)
    backbone = load_trainable(own, torch.device("cpu"), False)
    train.train(own, backbone, [MemoryBank.open(own.folder / "train")], launch(own, "test", {}))
    assert (tmp_path / "transformer" / "config.json").exists()
