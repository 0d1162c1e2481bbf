"""Clips on disk: each can be rendered again alone, and a stopped rendering is continued."""

from __future__ import annotations

from concurrent.futures import Executor

import pytest

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
