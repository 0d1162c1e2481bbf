"""Two rooms, with people and without, as banks; and own videos, whose poses are estimated or not known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memkit.banks import MemoryBank
from recipes.memlearner import prepare
from recipes.memlearner.presets import Config, tiny
from tests.helpers.memlearner_runs import CHUNKS, videos_in


@pytest.fixture(scope="session")
def config(random_folder, tmp_path_factory) -> Config:
    out = tmp_path_factory.mktemp("rooms")
    made = dataclasses.replace(
        tiny(), model=str(random_folder), out=out, banks=out, device="cpu", layers=1, batch=2, steps=4, save_every=2,
        log_every=1, warmup=1, text_length=120, sampling_steps=1, video_chunks=CHUNKS, train_videos=2, test_videos=2,
        frames=3, chunks=2,
    )  # fmt: skip
    assert prepare.main(prepare.Prepare(made)) == 0
    return made


@pytest.fixture(scope="session")
def bank(config: Config) -> MemoryBank:
    return MemoryBank.open(config.folder / "train")


@pytest.fixture(scope="session")
def walks(config, tmp_path_factory) -> dict[str, Path]:
    """Banks of one's own videos, whose poses are estimated or not known."""
    folder, found = tmp_path_factory.mktemp("walks"), {}
    captions = videos_in(folder / "videos")
    for annotation in ("estimated", "none"):
        own = dataclasses.replace(config, out=folder / annotation, banks=None)
        command = prepare.Prepare(own, folder / "videos", captions, annotation=annotation, skip_bad=True)
        assert prepare.main(command) == 0
        found[annotation] = own.out / "train"
    return found
