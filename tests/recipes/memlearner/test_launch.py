"""MemLearner's training as it is launched: two processes make the steps of one, with the weights sharded too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from torch.distributed.tensor import DTensor

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.injectors import QueryLayers
from memkit.training import (
    TrainState,
    adamw,
    clip_gradients,
    load_trainable,
    prepared,
    set_learning_rate,
    shard,
    zero_missing_gradients,
)
from recipes.memlearner import prepare, train
from recipes.memlearner.data import TrainingSet
from recipes.memlearner.methods import make_method
from recipes.memlearner.presets import PRESETS, Config, tiny
from recipes.memlearner.step import Objective
from tests.helpers.launching import assert_the_steps_of_one, rows, two_processes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Four steps of two samples, some with a past and some without."""
    out = tmp_path_factory.mktemp("launched")
    made = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, banks=out, device="cpu", threads=1, layers=2, batch=2, steps=4,
        save_every=1, log_every=1, warmup=1, text_length=120, video_chunks=2, train_videos=2, test_videos=0, chunks=1,
        lr=1e-4, camera_lr=1e-4,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(made)) == 0
    return made


def test_two_sharded_processes_make_the_steps_of_one_with_the_doubled_batch(config, tmp_path) -> None:
    alone = dataclasses.replace(config, out=tmp_path / "alone")
    assert train.main(train.Command(alone)) == 0
    assert {row["past"] for row in rows(alone.out)} == {0, 3}  # with a past and without
    both = dataclasses.replace(alone, out=tmp_path / "both", batch=1, shard=True, checkpointing=True)  # as the preset
    printed = two_processes(lambda: train.main(train.Command(both)), tmp_path)
    assert_the_steps_of_one(alone, both, printed)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one: its pieces are the whole, but they are pieces."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("pieces_go_on", [False, True])
def test_a_checkpoint_of_pieces_is_one_of_the_whole(config, tmp_path, one_process, pieces_go_on) -> None:
    def begun(out: Path, pieces: bool) -> tuple[Objective, TrainState]:
        own = dataclasses.replace(config, out=out)
        out.mkdir(exist_ok=True)
        backbone = load_trainable(own, CPU, False)
        method = make_method(own, backbone)
        data = TrainingSet([MemoryBank.open(own.folder / "train")], own, method.keeps)
        objective = Objective(own, backbone, method, data)
        if pieces:
            shard(objective, backbone.transformer)
        optimizer = adamw([(objective.transformer.parameters(), own.lr), (method.parameters(), own.camera_lr)])
        return objective, TrainState(objective, optimizer, Accelerator(cpu=True))

    def steps(objective: Objective, state: TrainState, start: int, end: int) -> list[torch.Tensor]:
        found = []
        with prepared(WanBackbone(objective.transformer), config.text_length, False):
            for step in range(start, end):
                with ExitStack() as attached:
                    loss, errors = objective(objective.data.batch(step), CPU, attached)
                    loss.backward()
                zero_missing_gradients(objective)
                norm = clip_gradients(state.accelerator, objective, config.clip_norm)
                set_learning_rate(state.optimizer, train.learning_rate(config, step))
                state.optimizer.step()
                state.optimizer.zero_grad()
                found += [errors.mean(), torch.tensor(norm)]
        return found

    course, state = begun(tmp_path / "a", pieces=True)
    steps(course, state, 0, 2)
    assert any(isinstance(p, DTensor) for p in course.parameters())
    train.save(course.config, course, state, 2, {})
    other, other_state = begun(tmp_path / "b", pieces=pieces_go_on)
    assert other_state.resume(tmp_path / "a" / "checkpoint.pt", {}) == 2
    saved = WanTransformer3DModel.from_pretrained(tmp_path / "a" / "transformer").state_dict()
    for name, value in other.transformer.state_dict().items():
        assert torch.equal(full(value), saved[name])
    part = QueryLayers.from_pretrained(tmp_path / "a" / "method" / "query").state_dict()
    for name, value in other.method.query.state_dict().items():
        assert torch.equal(full(value), part[name])
    torch.testing.assert_close(steps(other, other_state, 2, 4), steps(course, state, 2, 4), rtol=1e-5, atol=1e-6)


def full(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def test_the_large_preset_shards() -> None:
    assert {name for name, preset in PRESETS.items() if preset().shard} == {"wan2.2-5b"}
