"""ReMind's clips: what interrupts them, their twins, their records; and own videos."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.banks.captions import Row
from memkit.cameras import Cameras, write_poses
from memkit.errors import BankError, FileError, InputError
from memkit.files.atomic import hash_files
from memkit.files.json_files import hash_rows
from memkit.interruptions import Fog
from memkit.interruptions.timing import frames_of
from memkit.video import write_video
from recipes.remind import prepare, records
from recipes.remind.clips import FileClip, WorldClip
from recipes.remind.data import TrainingSet
from recipes.remind.presets import Config
from recipes.remind.records import chunk_spans, twin_of


@pytest.fixture
def config(untrained: Config) -> Config:
    return untrained


def test_a_bank_holds_each_clip_and_its_twin(config, bank) -> None:
    names = [f"train-{i:05d}" for i in range(3)]
    assert bank.ids == [id for name in names for id in (name, twin_of(name))]
    for name in names:
        clip, twin = bank.clip(name), bank.clip(twin_of(name))
        start, _ = next(r for r in records.read_records(bank.path) if r.id == name).hidden
        assert torch.equal(clip.latents[:, :start], twin.latents[:, :start])  # a causal VAE does not look ahead
        assert not torch.equal(clip.latents[:, start], twin.latents[:, start])
        assert clip.caption != twin.caption and twin.caption in clip.caption
        assert clip.cameras is not None and clip.cameras.c2w.shape == (13, 4, 4)
    before = bank.fingerprint, (bank.path / records.RECORDS).read_text()
    assert prepare.main(prepare.Prepare(config)) == 0
    assert before == (MemoryBank.open(bank.path).fingerprint, (bank.path / records.RECORDS).read_text())


def test_records_say_what_the_frames_show(config) -> None:
    for i in range(5):
        clip = WorldClip(f"test-{i:05d}", config)
        shown, twin = (frames for frames, _ in clip.videos())
        differ = (shown != twin).flatten(1).any(1)
        start, clear = clip.record.hidden[0], clip.record.clear
        seen = [differ[frames_of((f, f + 1))].any().item() for f in range(config.latents)]
        assert not any(seen[:start]) and not any(seen[clear:]), clip.id
        assert seen[start + 1 : clear - 1] == [True] * (clear - start - 2), clip.id
        told = [caption != clip.record.twin_caption for caption in clip.record.captions]
        assert told == [a < clear and start < b for a, b in chunk_spans(config)], clip.id


def test_a_bank_remembers_what_its_captions_name(config, bank, tmp_path) -> None:
    scenes = dataclasses.replace(config, out=tmp_path, banks=tmp_path, train_clips=1, world_captions="scene")
    records_of = [WorldClip("train-00000", c).record for c in (config, scenes)]
    assert records_of[0].hidden == records_of[1].hidden  # the same clip
    assert all(
        a.split()[:1] == b.split()[:1] and a != b for a, b in zip(*(r.captions for r in records_of), strict=True)
    )
    assert records_of[1].twin_caption == records_of[1].captions[0]
    with pytest.raises(InputError, match="name the process; give --world-captions process"):
        TrainingSet(bank, scenes)
    with pytest.raises(BankError, match="captions"):
        prepare.main(prepare.Prepare(dataclasses.replace(config, world_captions="scene")))
    with pytest.raises(InputError, match="--world-captions is about rendered clips"):
        prepare.main(prepare.Prepare(scenes, videos=tmp_path, captions=tmp_path / "captions.csv"))
    assert prepare.main(prepare.Prepare(dataclasses.replace(scenes, test_clips=0))) == 0
    made = MemoryBank.open(tmp_path / "train")
    assert made.captions[1] == records_of[1].twin_caption
    assert TrainingSet(made, scenes).records["train-00000"] == records_of[1]


def test_nothing_is_given_in_which_the_view_comes_back(config) -> None:
    for i in range(20):
        clip = WorldClip(f"test-{i:05d}", config)
        amount = clip.fog.timing.amount(49) if clip.by == "fog" else clip.interrupted.by.amount(clip.seconds)
        (start, stop), clear = clip.record.hidden, clip.record.clear
        given = frames_of((start, stop))
        assert amount[given][-1] == 1.0 and start < stop <= clear <= 10
        assert (amount[given].diff() >= 0).all(), clip.id  # it only comes, or stays
        assert stop >= 7  # the chunk in which it begins ends hidden


def test_the_test_split_has_fog_and_training_has_none(config) -> None:
    kinds = {split: Counter(WorldClip(f"{split}-{i:05d}", config).by for i in range(20)) for split in ("train", "test")}
    assert "fog" not in kinds["train"] and kinds["test"]["fog"] == 4
    files = [FileClip(Row(1, Path("x"), "a cat", f"v{i}", "x"), config, held_out=True) for i in range(30)]
    assert any(isinstance(clip.interruption, Fog) for clip in files)
    files = [dataclasses.replace(clip, held_out=False) for clip in files]
    assert (
        not any(isinstance(clip.interruption, Fog) for clip in files) and len({c.record.by for c in files}) == 4
    )  # a loop is longer


def test_a_clip_too_short_to_be_interrupted_is_refused(config) -> None:
    short = dataclasses.replace(config, frames=17)
    with pytest.raises(InputError, match="increase --frames"):
        _ = WorldClip("train-00000", short).record


def videos_in(folder: Path, frames: int = 50) -> Path:
    folder.mkdir()
    video = torch.randint(0, 256, (frames, 40, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("plain", "walk", "wrong"):
        write_video(folder / f"{name}.mp4", video, 8.0)
    write_video(folder / "short.mp4", video[:20], 8.0)
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    c2w[:, 0, 3] = torch.arange(frames)
    cameras = Cameras(c2w, torch.tensor([0.8, 1.0, 0.5, 0.5]).double().expand(frames, 4))
    write_poses(folder / "walk.npz", cameras)
    write_poses(folder / "wrong.npz", Cameras(c2w[:9], cameras.intrinsics[:9]))
    captions = folder / "captions.csv"
    rows = ("plain.mp4,a cat.", "walk.mp4,a walk", "short.mp4,too short", "wrong.mp4,nine poses")
    captions.write_text("\n".join(("video,caption", *rows)) + "\n")
    return captions


def test_own_videos_are_interrupted_and_bad_ones_named(config, tmp_path, capsys) -> None:
    captions = videos_in(tmp_path / "mine")
    mine = dataclasses.replace(config, out=tmp_path, banks=tmp_path)
    command = prepare.Prepare(mine, videos=tmp_path / "mine", captions=captions)
    assert prepare.main(command) == 1
    told = capsys.readouterr().err
    assert "short.mp4" in told and "wrong.npz has 9 poses" in told
    bank = MemoryBank.open(tmp_path / "train")
    assert bank.ids == ["plain.mp4", "plain.mp4/twin", "walk.mp4", "walk.mp4/twin"]
    walked = bank.clip("walk.mp4/twin").cameras
    assert walked is not None and walked.c2w[:, 0, 3].tolist() == [4.0 * i for i in range(13)]
    assert prepare.main(dataclasses.replace(command, skip_bad=True)) == 0
    data = TrainingSet(bank, mine)
    assert set(data.batch(0).ids) <= set(bank.ids)


def test_poses_turn_with_a_virtual_camera(config, tmp_path) -> None:
    videos_in(tmp_path / "mine")
    row = Row(1, tmp_path / "mine" / "walk.mp4", "a walk", "x", "x")
    clips = (FileClip(row._replace(id=f"w{i}"), config) for i in range(40))
    clip = next(c for c in clips if c.record.by == "look-away")
    (_, turned), (_, given) = clip.videos()
    start, stop = clip.record.hidden[0], clip.record.clear
    assert torch.equal(turned.c2w[:, :3, 3], given.c2w[:, :3, 3])
    moved = (turned.c2w - given.c2w).abs().amax((1, 2)) > 1e-6
    assert moved.any() and not moved[: 4 * start - 3].any() and not moved[4 * stop - 3 :].any()
    # its angle of view is the file's: 0.8 of a 64×40 frame, scaled and cropped to a square, of which .6 is kept
    torch.testing.assert_close(given.intrinsics[0, 0].item(), 0.8 * 1.6 / 0.6, rtol=1e-4, atol=0.0)


def test_records_that_are_cut_or_changed_are_refused(bank, tmp_path) -> None:
    whole = (bank.path / records.RECORDS).read_bytes()
    found = records.read_records(bank.path)
    for length in range(0, len(whole), 7):
        (tmp_path / records.RECORDS).write_bytes(whole[:length])
        with pytest.raises(FileError, match=r"records\.jsonl .*"):
            records.read_records(tmp_path)
    for at in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        (tmp_path / records.RECORDS).write_bytes(damaged)
        with pytest.raises(FileError, match=r"records\.jsonl is damaged"):
            records.read_records(tmp_path)
    (tmp_path / records.RECORDS).write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    assert records.read_records(tmp_path) == found  # as they were before there was a first line


def test_a_run_knows_its_records_whether_they_have_checksums_or_not(bank, tmp_path) -> None:
    found = records.read_records(bank.path)
    plain = "".join(json.dumps(record._asdict(), ensure_ascii=False) + "\n" for record in found)
    (tmp_path / records.RECORDS).write_text(plain)
    assert hash_rows(record._asdict() for record in found) == hash_files(
        tmp_path / records.RECORDS
    )  # what checkpoints have of older runs
    assert records.read_records(tmp_path) == found


def test_nothing_made_is_an_error(config, tmp_path, capsys) -> None:
    short = dataclasses.replace(config, frames=17, out=tmp_path, banks=None)
    with pytest.raises(InputError, match=r"Nothing was added .*none of 3 items .*increase --frames"):
        prepare.main(prepare.Prepare(short))
    assert "train-00002: train-00002: no interruption fits" in capsys.readouterr().err
    captions = tmp_path / "captions.csv"
    captions.write_text("video,caption\n")
    with pytest.raises(InputError, match=r"captions\.csv lists no videos"):
        prepare.main(prepare.Prepare(short, videos=tmp_path, captions=captions, into="test"))


def test_some_world_clips_that_fail_give_the_exit_code(config, tmp_path, monkeypatch, capsys) -> None:
    videos = WorldClip.videos

    def failing(clip: WorldClip):
        if clip.id == "train-00001":
            raise InputError("no luck")
        return videos(clip)

    monkeypatch.setattr(WorldClip, "videos", failing)
    some = dataclasses.replace(config, out=tmp_path, banks=None, test_clips=0)
    assert prepare.main(prepare.Prepare(some)) == 1
    said = capsys.readouterr()
    assert "train-00001: no luck" in said.err and f"{tmp_path / 'train'}: 3 listed, 1 bad" in said.out
    assert len(MemoryBank.open(tmp_path / "train")) == 4
