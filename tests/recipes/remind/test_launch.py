"""ReMind's training as it is launched: two processes that share the weights make the steps of one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from recipes.remind import prepare, train
from recipes.remind.presets import PRESETS, tiny
from tests.helpers.launching import assert_the_steps_of_one, rows, two_processes


def test_two_sharded_processes_make_the_steps_of_one_with_the_doubled_batch(random_folder: Path, tmp_path) -> None:
    config = dataclasses.replace(
        tiny(), model=str(random_folder), out=tmp_path / "alone", banks=tmp_path, device="cpu", threads=1, height=32,
        width=32, batch=2, steps=4, save_every=1, log_every=1, warmup=1, text_length=160, train_clips=4, test_clips=0,
        lr=1e-4, camera_lr=1e-4, seed=1,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(config)) == 0
    assert train.main(train.Command(config)) == 0
    assert len({row["graph"] for row in rows(config.out)}) > 1
    both = dataclasses.replace(config, out=tmp_path / "both", batch=1, shard=True, checkpointing=True)  # as the preset
    printed = two_processes(lambda: train.main(train.Command(both)), tmp_path)
    assert_the_steps_of_one(config, both, printed)


def test_the_large_preset_shards() -> None:
    assert {name for name, preset in PRESETS.items() if preset().shard} == {"wan2.2-5b"}
