"""ReMind's training: it moves everything, resumes to the bit, and its loss is on what is to be learned."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError
from memkit.generation import TextCache
from memkit.injectors import TeacherForcing, stream_cameras
from memkit.training import load_trainable, prepared
from recipes.remind import train
from recipes.remind.data import TrainingSet
from recipes.remind.presets import PRESETS, Config, tiny
from tests.helpers.training_runs import finished, stop_once_saved


@pytest.fixture
def config(untrained: Config) -> Config:
    return untrained


CPU = torch.device("cpu")


trained = partial(finished, train)


def test_training_moves_everything_and_resumes_to_the_bit(config, tmp_path) -> None:
    own = dataclasses.replace(config, cameras="full")
    whole = trained(own, tmp_path / "whole")
    backbone = load_trainable(config, CPU, sharded=False)
    start = {f"cameras.{k}": v for k, v in train.make_cameras(own, backbone).state_dict().items()}
    start |= {f"transformer.{k}": v for k, v in backbone.transformer.state_dict().items()}
    assert start.keys() == whole.keys()
    assert not [name for name, value in start.items() if torch.equal(value, whole[name])]

    stop_once_saved(train, dataclasses.replace(own, out=tmp_path / "parts"), 1)
    parts = trained(own, tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and all("@" in row["graph"] for row in rows)


def test_accumulated_passes_make_the_steps_of_one_with_the_doubled_batch(config, tmp_path) -> None:
    whole = trained(config, tmp_path / "whole", lr=1e-4, camera_lr=1e-4)
    parts = trained(config, tmp_path / "parts", lr=1e-4, camera_lr=1e-4, batch=1, gradient_accumulation_steps=2)
    for name, weight in whole.items():
        assert (weight - parts[name]).abs().max() <= 0.1 * 1e-4, name  # Adam's first steps are the gradient's sign
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("whole", "parts")]
    for one, two in zip(*logs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["norm"] == pytest.approx(one["norm"], rel=1e-3)


def setup(config: Config, bank: MemoryBank):
    backbone = load_trainable(config, CPU, sharded=False)
    positions = train.make_cameras(config, backbone)
    return backbone, train.Objective(config, backbone, positions), TrainingSet(bank, config)


def losses(backbone, objective: train.Objective, batch, checkpointing: bool = False):
    """The errors and their noise levels; leaves the gradients of the mean error."""
    with (
        prepared(backbone, objective.text.length, checkpointing),
        TeacherForcing().attach(backbone.transformer) as forcing,
        objective.cameras.attach(backbone.transformer) as positions,
        forcing.chunk(batch.graph, for_loss=True) as forced,
        positions.chunk(stream_cameras(batch.graph, CameraPath.of(batch.cameras), for_loss=True)),
    ):
        error, sigma = objective(batch, forced, CPU)
        error.mean().backward()
    return error.detach(), sigma


def test_the_loss_is_on_what_is_neither_known_nor_degraded(config, bank) -> None:
    backbone, objective, data = setup(config, bank)
    batch = next(b for b in map(data.batch, range(50)) if any(n.role == "degraded" for n in b.graph.nodes))
    error, sigma = losses(backbone, objective, batch)
    mask = batch.graph.loss_mask()
    assert error.shape == sigma.shape == (2, int(mask.sum()))
    noise = batch.noise.clone()
    noise[:, :, ~mask] += 1.0
    changed = dataclasses.replace(batch, noise=noise)
    torch.testing.assert_close(losses(backbone, objective, changed)[0], error)
    noise[:, :, mask] += 1.0
    changed = dataclasses.replace(batch, noise=noise)
    assert not torch.allclose(losses(backbone, objective, changed)[0], error)


def test_short_texts_and_checkpointing_change_nothing(config, bank) -> None:
    own = dataclasses.replace(config, cameras="full")
    backbone, objective, data = setup(own, bank)
    batch = next(b for b in map(data.batch, range(50)) if len({c for row in b.captions for c in row}) > 3)
    found = []
    for length, checkpointing in ((160, False), (160, True), (512, False)):
        objective.zero_grad(set_to_none=True)
        objective.text = TextCache(backbone, length)
        error, _ = losses(backbone, objective, batch, checkpointing)
        found.append((error, {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}))
    for error, grads in found[1:]:
        torch.testing.assert_close(error, found[0][0], rtol=1e-4, atol=1e-5)
        assert grads.keys() == found[0][1].keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, found[0][1][name], rtol=1e-3, atol=1e-5)


def test_cameras_matter_once_they_have_learned(config, bank) -> None:
    own = dataclasses.replace(config, cameras="phase")
    backbone, objective, data = setup(own, bank)
    batch = data.batch(0)
    before, _ = losses(backbone, objective, batch)
    moved = Cameras(batch.cameras.c2w.clone(), batch.cameras.intrinsics)
    moved.c2w[:, 5:, 0, 3] += torch.arange(8.0)
    other = dataclasses.replace(batch, cameras=moved)
    assert torch.equal(losses(backbone, objective, other)[0], before)
    for weights in objective.cameras.parameters():
        torch.nn.init.normal_(weights)
    assert not torch.allclose(losses(backbone, objective, other)[0], before)


def test_another_run_s_checkpoint_is_refused(config, tmp_path) -> None:
    assert not any(name.startswith("cameras.") for name in trained(config, tmp_path, steps=1, cameras="off"))
    for changes in ({"node_drop": 0.1}, {"undisturbed_prob": 0.0}):
        with pytest.raises(InputError, match=next(iter(changes))):
            trained(config, tmp_path, steps=1, **{"cameras": "off", **changes})


def test_there_is_an_error_without_a_bank(config, tmp_path) -> None:
    with pytest.raises(InputError, match=r"prepare"):
        train.main(train.Command(dataclasses.replace(config, banks=tmp_path)))


def test_presets_are_whole() -> None:
    assert set(PRESETS) == {"tiny", "wan2.1-1.3b", "wan2.2-5b"}
    for name, make in PRESETS.items():
        made = make()
        assert (made.latents, made.first) == ((13, 1) if name == "tiny" else (21, 3))
    with pytest.raises(InputError, match="4·n"):
        _ = dataclasses.replace(tiny(), frames=50).latents
