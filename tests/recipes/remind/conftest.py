"""Runs of ReMind's recipe with their banks, one trained and one not, and a video to begin with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memkit.banks import MemoryBank
from memkit.video import write_video
from recipes.remind import __main__, prepare
from recipes.remind.clips import WorldClip
from recipes.remind.presets import Config, tiny
from tests.helpers.smoke_runs import smoke_run


@pytest.fixture(scope="session")
def config(random_folder, tmp_path_factory) -> Config:
    out = tmp_path_factory.mktemp("remind")
    few = ("--batch", "1", "--steps", "1", "--train-clips", "1", "--test-clips", "5")
    return smoke_run(__main__, random_folder, out / "run", "--banks", str(out), *few)


@pytest.fixture(scope="session")
def untrained(random_folder, tmp_path_factory) -> Config:
    """Settings of a short run, and three interrupted clips with their twins as its bank."""
    out = tmp_path_factory.mktemp("interruptions")
    untrained = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, banks=out, device="cpu", height=32, width=32, batch=2, steps=2,
        save_every=1, log_every=1, warmup=1, text_length=160, train_clips=3, test_clips=1, sampling_steps=1,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(untrained)) == 0
    return untrained


@pytest.fixture(scope="session")
def bank(untrained) -> MemoryBank:
    return MemoryBank.open(untrained.folder / "train")


@pytest.fixture(scope="session")
def picture(config) -> Path:
    file = config.folder / "first.mp4"
    frames = WorldClip("test-00000", config).videos()[1].frames[:30]
    write_video(file, frames, 8.0)
    return file
