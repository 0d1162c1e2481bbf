"""MemLearner's data: chunks of long videos, own videos with poses, and batches with their past."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.rollout.long_videos import chunk_id, frames_id
from memkit.training import load_backbone
from memkit.worlds.rooms import Room
from memkit.worlds.tours import room_names
from recipes.memlearner import prepare
from recipes.memlearner.data import TrainingSet
from recipes.memlearner.videos import WorldVideo
from tests.helpers.memlearner_runs import CHUNKS, videos_in


def test_a_bank_holds_chunks_that_share_a_frame(config, bank) -> None:
    names = room_names("train", 2)
    assert names == ["train-00000", "train-00001-dynamic"]
    wanted = {f(name, i) for name in names for i in range(CHUNKS) for f in (chunk_id, frames_id)}
    assert set(bank.ids) == wanted and set(bank.sources) == set(names)
    for name in names:
        for i in range(1, CHUNKS):
            before, after = (bank.clip(frames_id(name, j)) for j in (i - 1, i))
            assert torch.equal(before.latents[:, -1], after.latents[:, 0])
            assert before.cameras is not None and after.cameras is not None
            assert torch.equal(before.cameras.c2w[-1], after.cameras.c2w[0])
    test = MemoryBank.open(config.folder / "test").sources
    assert set(test) == {"test-00000", "test-00000-dynamic"}
    assert prepare.main(prepare.Prepare(config)) == 0 and set(MemoryBank.open(bank.path).ids) == wanted


def test_captions_tell_the_camera_s_motion_and_nothing_of_the_room(bank) -> None:
    for caption in bank.captions:
        assert "room" in caption and not any(word in caption for word in ("wall", "pillar", "table", "person"))


def test_the_twin_with_people_walks_the_same_way(config) -> None:
    form = load_backbone(config).video_format
    quiet, busy = (WorldVideo("rooms", name, CHUNKS, form) for name in ("test-00004", "test-00004-dynamic"))
    for a, b in zip(quiet.chunks(), busy.chunks(), strict=True):
        assert torch.equal(a.cameras.c2w, b.cameras.c2w)
    assert not Room.named("test-00004").movers and Room.named("test-00004-dynamic").movers


def test_own_videos_bring_their_poses(config, tmp_path, capsys) -> None:
    captions = videos_in(tmp_path / "mine")
    mine = dataclasses.replace(config, out=tmp_path, banks=tmp_path)
    command = prepare.Prepare(mine, videos=tmp_path / "mine", captions=captions)
    assert prepare.main(command) == 1
    assert "lost.mp4" in capsys.readouterr().err
    bank = MemoryBank.open(tmp_path / "train")
    assert bank.ids == [f("walk.mp4", i) for i in range(2) for f in (chunk_id, frames_id)]
    cameras = bank.clip(chunk_id("walk.mp4", 1)).cameras
    assert cameras is not None and cameras.c2w[:, 0, 3].tolist() == [8.0, 12.0, 16.0]
    # 64×40 scaled to 51×32 and cropped to 32×32: across, the view is narrower
    torch.testing.assert_close(cameras.intrinsics[0], torch.tensor([0.8 * 1.6, 1.0, 0.5, 0.5]).double())
    assert prepare.main(dataclasses.replace(command, skip_bad=True)) == 0 and len(MemoryBank.open(bank.path)) == 4


def test_a_batch_is_a_function_of_its_step_and_shared_by_processes(config, bank) -> None:
    data = TrainingSet([bank], config, "chunks")
    pasts = set()
    for step in range(12):
        whole = TrainingSet([bank], dataclasses.replace(config, batch=4), "chunks").batch(step)
        parts = [data.batch(step, rank, 2) for rank in range(2)]
        for name in ("latents", "noise", "query_noise", "sigma"):
            joined = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            assert torch.equal(getattr(whole, name), joined)
        assert [c for pair in zip(*(p.captions for p in parts), strict=True) for c in pair] == whole.captions
        pasts.add(len(whole.history))
        assert not torch.equal(whole.noise, whole.query_noise)
    assert pasts == {0, 3, 6}  # latent frames of 0, 1 and 2 chunks


def test_a_bank_of_something_else_is_refused(config, tmp_path) -> None:
    with MemoryBank.create(tmp_path / "bank") as other:
        other.add("a", torch.zeros(16, 3, 4, 4), "a clip")
    with pytest.raises(InputError, match="prepare"):
        TrainingSet([other], config, "chunks")


def test_banks_say_how_their_poses_are_known(config, walks) -> None:
    estimated, unknown = (MemoryBank.open(walks[name]) for name in ("estimated", "none"))
    assert len(estimated) == 4 and len(unknown) == 8  # lost.mp4 has no poses
    assert all(unknown.clip(id).cameras is None for id in unknown.ids)
    banks = [MemoryBank.open(config.folder / "train"), estimated, unknown]
    known = dataclasses.replace(config, annotations=("exact", "estimated", "none"))
    data = TrainingSet(banks, known, "chunks")
    batches = [data.batch(step) for step in range(30)]
    counts = {name: sum(b.annotation == name for b in batches) for name in known.annotations}
    assert min(counts.values()) > 0
    for batch in batches:
        assert (batch.cameras is None) == (batch.annotation == "none")
        assert not len(batch.history) or (batch.history.cameras is None) == (batch.annotation == "none")
    with pytest.raises(InputError, match="has 'none' poses"):
        TrainingSet(banks, dataclasses.replace(known, annotations=("exact", "estimated")), "chunks")
    with pytest.raises(InputError, match="no poses, by which"):
        TrainingSet(banks, dataclasses.replace(known, method="cam"), "frames")
