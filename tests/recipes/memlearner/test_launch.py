"""MemLearner's training as it is launched: two processes make the steps of one, with the weights sharded too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from torch.distributed.tensor import DTensor

from memkit.banks import MemoryBank
from recipes.common.launch import shard
from recipes.common.training import load_checkpoint
from recipes.memlearner import prepare, train
from recipes.memlearner.data import TrainingSet
from recipes.memlearner.methods import make_method
from recipes.memlearner.presets import PRESETS, Config, tiny
from recipes.memlearner.state import Training
from tests.helpers.launching import LAUNCH, arguments, assert_the_steps_of_one, finish, popen, rows


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
    printed = finish(popen(*LAUNCH, *arguments("recipes.memlearner.train", both, tiny())))
    assert_the_steps_of_one(alone, both, printed)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one: its pieces are the whole, but they are pieces."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("pieces_go_on", [False, True])
def test_a_checkpoint_of_pieces_is_one_of_the_whole(config, tmp_path, one_process, pieces_go_on) -> None:
    def begun(out: Path, pieces: bool) -> train.Steps:
        own = dataclasses.replace(config, out=out)
        out.mkdir(exist_ok=True)
        backbone = train.load_backbone(own, torch.device("cpu"))
        method = make_method(own, backbone)
        if pieces:
            shard(backbone.transformer)
        data = TrainingSet([MemoryBank.open(own.folder / "train")], own, method.keeps)
        return train.Steps(Training(own, backbone, method, Accelerator(cpu=True)), data)

    def steps(course: train.Steps, start: int, end: int) -> list[torch.Tensor]:
        found = []
        with train.prepared(course.training.backbone, config.text_length, False):
            for step in range(start, end):
                found += [course.gradients(step)[0].mean(), full(course.training.step(step))]
        return found

    course = begun(tmp_path / "a", pieces=True)
    steps(course, 0, 2)
    assert any(isinstance(p, DTensor) for p in course.training.modules.parameters())
    course.training.save(2, {})
    other = begun(tmp_path / "b", pieces=pieces_go_on)
    state = load_checkpoint(tmp_path / "a" / "checkpoint.pt", {})
    assert state is not None and state["step"] == 2
    other.training.load(state)
    saved = WanTransformer3DModel.from_pretrained(tmp_path / "a" / "transformer").state_dict()
    for name, value in other.training.backbone.transformer.state_dict().items():
        assert torch.equal(full(value), saved[name])
    torch.testing.assert_close(steps(other, 2, 4), steps(course, 2, 4), rtol=1e-5, atol=1e-6)


def full(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def test_the_large_preset_shards() -> None:
    assert {name for name, preset in PRESETS.items() if preset().shard} == {"wan2.2-5b"}
