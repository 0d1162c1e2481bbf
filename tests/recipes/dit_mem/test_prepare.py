"""The prepare command: worlds and videos by several processes, as by one."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from memkit.banks import MemoryBank, parallel
from memkit.errors import BankError
from memkit.video import write_video
from recipes.dit_mem import prepare
from recipes.dit_mem.prepare import Prepare
from recipes.dit_mem.presets import Config, tiny
from tests.helpers.forked import code_of, process


@pytest.fixture(scope="module", autouse=True)
def small_blocks_and_no_waiting_for_the_disk():
    """The death of a process, unlike that of a machine, loses nothing that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "BLOCK", 3)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def config(random_folder: Path) -> Config:
    return dataclasses.replace(tiny(), model=str(random_folder), threads=1, train_clips=10, test_clips=4)


@pytest.fixture
def run(monkeypatch, config) -> Callable[..., int]:
    def run(out: Path, rank: int, world: int, **options) -> int:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        return prepare.main(Prepare(dataclasses.replace(config, out=out), **options))

    return run


def same(a: Path, b: Path) -> bool:
    one, other = MemoryBank.open(a), MemoryBank.open(b)
    assert one.verify().clips == other.verify().clips and not [*b.parent.glob(f"{b.name}-parts*")]
    assert (one.ids, one.captions, one.sources, one.info) == (other.ids, other.captions, other.sources, other.info)
    return all(torch.equal(one.clip(id).latents, other.clip(id).latents) for id in one.ids)


def test_the_laws_world_by_three_processes_and_by_two_at_once(tmp_path, run, config):
    assert run(tmp_path / "one", 0, 1) == 0
    for rank in (1, 2, 0):
        assert run(tmp_path / "three", rank, 3) == 0
    children = [process(lambda rank=rank: run(tmp_path / "two", rank, 2)) for rank in range(2)]
    assert [code_of(child) for child in children] == [0, 0]
    for other in ("three", "two"):
        assert same(tmp_path / "one" / "bank", tmp_path / other / "bank")
        assert same(tmp_path / "one" / "bank-test", tmp_path / other / "bank-test")
    assert len(MemoryBank.open(tmp_path / "two" / "bank")) == 10


def test_parts_of_another_seed_are_refused(tmp_path, run, config):
    run(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "bank")
    other = Prepare(dataclasses.replace(config, out=tmp_path, seed=config.seed + 1))
    with pytest.raises(BankError, match="another seed"):
        prepare.main(other)
    assert run(tmp_path, 0, 1) == 0 and len(MemoryBank.open(tmp_path / "bank")) == 10


def test_videos_by_three_processes_with_the_report_of_one(tmp_path, run, capsys):
    for n in range(7):
        write_video(tmp_path / f"{n}.mp4", torch.full((9, 32, 32, 3), 30 * n, dtype=torch.uint8), 8.0)
    (tmp_path / "4.mp4").write_bytes(b"broken")
    rows = [
        "video,caption,source",
        *(f"{n}.mp4,clip {n},film {n // 2}" for n in range(7)),
        "9.mp4,not there,",
        "1.mp4,",
    ]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    options = {"videos": tmp_path, "captions": tmp_path / "captions.csv"}
    assert run(tmp_path / "one", 0, 1, **options) == 1
    said = capsys.readouterr()
    assert "6 clips added, 0 were there, 3 bad" in said.out and said.err.count("captions.csv:") == 3
    for rank in (2, 1):
        assert run(tmp_path / "two", rank, 3, **options) == 0
        assert not capsys.readouterr().out
    assert run(tmp_path / "two", 0, 3, **options, skip_bad=True) == 0
    again = capsys.readouterr()
    assert same(tmp_path / "one" / "bank", tmp_path / "two" / "bank")
    assert MemoryBank.open(tmp_path / "two" / "bank").ids == [f"{n}.mp4" for n in (0, 1, 2, 3, 5, 6)]
    assert again.out.replace("two", "one") == said.out
    reasons = [[line for line in text.err.splitlines() if "captions.csv:" in line] for text in (said, again)]
    assert reasons[0] == reasons[1]
    assert run(tmp_path / "two", 0, 3, **options) == 1
    assert "0 clips added, 6 were there, 3 bad" in capsys.readouterr().out
