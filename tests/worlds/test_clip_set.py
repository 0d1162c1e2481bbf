"""Clips on disk: each can be rendered again alone, and a stopped rendering is continued."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from concurrent.futures import Executor

import numpy as np
import pytest

from memkit.errors import FileError, InputError
from memkit.worlds import __main__ as show
from memkit.worlds import clip_set


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    clip_set.render_clip_set(clip_set.ClipSetConfig(out=folder, laws=3, interruptions=2, rooms=1, workers=1))
    return folder


def test_clips_can_be_made_again_one_by_one(clips):
    videos, config = clip_set.ClipSet(clips), clip_set.ClipSetConfig(out=clips)
    assert len(videos) == 6 and clip_set.missing(config) == 0
    for place, suite, i in ((0, "laws", 0), (2, "laws", 2), (4, "interruptions", 1), (5, "rooms", 0)):
        drawn = clip_set.draw(config, suite, i)
        assert videos.rows[place] == drawn.row and videos.rows[place]["caption"]
        assert (videos[place] == drawn.render().numpy()).all()


def test_a_stopped_rendering_goes_on_where_it_was(clips, tmp_path, monkeypatch):
    config = clip_set.ClipSetConfig(out=tmp_path, laws=3, interruptions=0, rooms=0, workers=1)
    monkeypatch.setattr(clip_set, "_CHUNK", 1)
    rendered = []

    class Here(Executor):  # the pool, in this process
        def map(self, fn, *iterables, timeout=None, chunksize=1):
            return map(fn, *iterables)

    def render(job):
        if len(rendered) == 2:
            raise KeyboardInterrupt
        rendered.append(job[2])
        return clip_set.draw(*job).render().numpy()

    monkeypatch.setattr(clip_set, "_render", render)
    with pytest.raises(KeyboardInterrupt):
        clip_set._write(config, "laws", 3, Here())
    assert (tmp_path / "laws.done").read_text() == "2" and clip_set.missing(config) == 3
    rendered.clear()
    clip_set._write(config, "laws", 3, Here())
    assert rendered == [2] and not (tmp_path / "laws.done").exists()
    whole, again = clip_set.ClipSet(clips, ["laws"]), clip_set.ClipSet(tmp_path)
    assert again.rows == whole.rows and all((again[i] == whole[i]).all() for i in range(3))


@pytest.fixture
def copied(clips, tmp_path):
    return shutil.copytree(clips, tmp_path / "copy")


def test_a_changed_bit_of_a_clip_is_noticed_when_it_is_read(copied):
    with (copied / "laws.npy").open("r+b") as file:
        file.seek(-200_000, os.SEEK_END)  # in the last clip
        byte = file.read(1)
        file.seek(-200_000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 4]))
    videos = clip_set.ClipSet(copied)
    assert videos[1].any() and videos[3].any()
    with pytest.raises(FileError, match="Clip laws/train/0/2 in .* is damaged; remove"):
        videos[2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "laws.npy").write_bytes(b"\x93NUMPY"), "laws.npy is damaged"),
        (lambda f: (f / "laws.npy").write_bytes((f / "laws.npy").read_bytes()[:-5]), "laws.npy is damaged"),
        (lambda f: np.save(f / "laws.npy", np.zeros((3, 2), np.uint8)), r"laws.npy holds uint8 of \(3, 2\)"),
        (lambda f: np.save(f / "laws.npy", np.zeros((2, 17, 64, 64, 3), np.uint8)), "not describe the 2 clips"),
        (lambda f: (f / "laws.jsonl").write_bytes((f / "laws.jsonl").read_bytes()[:-300]), "laws.jsonl"),
        (lambda f: (f / "laws.jsonl").unlink(), "There is no .*laws.jsonl"),
        (lambda f: (f / "laws.jsonl").write_text('{"id": "a"}\n' * 3), "not describe the 3 clips"),
    ],
)
def test_files_that_do_not_hold_the_clips_are_named(copied, damage, message):
    damage(copied)
    with pytest.raises(FileError, match=message):
        clip_set.ClipSet(copied)


def test_a_set_from_before_checksums_is_read_and_no_set_is_refused(copied, tmp_path):
    rows = [clip_set.draw(clip_set.ClipSetConfig(out=copied), "laws", i).row for i in range(3)]
    (copied / "laws.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    videos = clip_set.ClipSet(copied, ["laws"])
    assert videos.rows == rows and len(videos) == 3 and videos[0].any()
    with pytest.raises(FileError, match="There are no clips in"):
        clip_set.ClipSet(tmp_path / "nowhere")


@pytest.mark.parametrize("bad", [{"laws": -1}, {"rooms": 10**9}, {"workers": 0}, dict.fromkeys(clip_set.SUITES, 0)])
def test_sets_that_cannot_be_are_refused(bad):
    with pytest.raises(InputError, match="give 1"):
        clip_set.ClipSetConfig(**bad)


def test_a_stopped_rendering_of_other_settings_is_not_gone_on_with(clips, tmp_path):
    config = clip_set.ClipSetConfig(out=tmp_path, laws=3, interruptions=0, rooms=0, workers=1)
    for changes, done in (({"seed": 1}, "2"), ({"laws": 4}, "2"), ({}, "two")):
        shutil.copy(clips / "laws.npy", tmp_path / "laws.partial.npy")
        (tmp_path / "laws.done").write_text(done)
        with pytest.raises(InputError, match="other settings|does not say how many"):
            clip_set.render_clip_set(dataclasses.replace(config, **changes))
    assert not (tmp_path / "laws.npy").exists()


@pytest.mark.parametrize(
    "bad", [{"num_frames": 10**9}, {"num_frames": 0}, {"size": -1}, {"size": 10**6}, {"kind": "x"}]
)
def test_what_cannot_be_shown_is_one_line(tmp_path, capsys, bad):
    assert show.main(show.Show("laws", out=tmp_path / "x.mp4", **bad)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "x.mp4").exists()
