"""MIND: which frames its scorer compares, what a video goes on from, and the errors that name what is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from memkit.errors import InputError
from memkit.evaluation.benchmarks import Mind
from memkit.evaluation.benchmarks.colmap import read_colmap
from memkit.evaluation.benchmarks.mind import memory_scores, mirror_scores, scored_frames
from memkit.video import read_video, resize
from tests.helpers.benchmark_data import colmap_text, frames_of, mind_in, poses_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return mind_in(tmp_path_factory.mktemp("mind"))


def test_the_scorer_drops_its_last_group() -> None:
    for length in range(1001):
        groups = [range(length)[start : start + 100] for start in range(0, length, 100)]
        assert scored_frames(length) == sum(len(group) for group in groups[:-1])
        assert (scored_frames(length) == 0) == (length <= 100)


def test_short_videos_are_refused_or_named_before_anything_is_generated(tmp_path, data):
    with pytest.raises(InputError, match="frames is 100.*no score of long-context memory.*101 or more"):
        Mind(data, frames=100)
    assert not Mind(data, frames=101).warnings()
    assert not Mind(data, tests=("action_space_test",), frames=50).warnings()
    (warning,) = Mind(mind_in(tmp_path, total=20)).warnings()
    assert "1st_data/château 1, 3rd_data/château 1" in warning and "no lcm" in warning


def test_a_video_goes_on_from_the_frames_before_the_mark_along_the_true_poses(data):
    tasks = Mind(data, frames=110).tasks()
    assert [task.file for task in tasks if "mirror" not in task.id] == [
        f"{view}/{test}/château 1/video.mp4"
        for view in ("1st_data", "3rd_data") for test in ("mem_test", "action_space_test")
    ]  # fmt: skip
    memory, action = tasks[:2]
    assert (memory.length, action.length, memory.kept) == (110, 97, 0)
    given = memory.given(18, 32)  # type: ignore[misc]
    truth = read_video(data / "1st_data" / "test" / "mem_test" / "château 1" / "video.mp4").frames
    assert torch.equal(given.frames, resize(truth[:5], 18, 32))
    np.testing.assert_allclose(given.cameras.c2w, poses_of(126)[:115], atol=1e-9)
    assert given.cameras.intrinsics[0].tolist() == pytest.approx([0.5, 0.5 * 64 / 36, 0.5, 0.5])


def test_a_mirror_goes_back_the_way_it_came(data):
    tasks = Mind(data, tests=("mirror_test",), mirror_frames=10).tasks()
    assert [task.file for task in tasks[:10]] == [f"1st_data/mirror_test/château 1/path-{i}.mp4" for i in range(1, 11)]
    paths = [task.given(18, 32).cameras.c2w for task in tasks[:10]]  # type: ignore[misc]
    assert all(torch.equal(path, path.flip(0)) and len(path) == 10 for path in paths)
    assert all(not torch.equal(a, b) for i, a in enumerate(paths) for b in paths[:i])
    with pytest.raises(InputError, match="even"):
        Mind(data, mirror_frames=9)


def test_scores_are_of_the_frames_that_are_compared():
    video = frames_of(201)
    other = video.clone()
    other[200:] = 0  # in the last group
    assert memory_scores(other, video, (36, 64)) == {"mse": 0.0, "psnr": math.inf, "ssim": pytest.approx(1.0)}
    other[199] = 0
    assert memory_scores(other, video, (36, 64))["mse"] == pytest.approx(
        float((video[199] / 255.0).square().mean() / 200), rel=1e-5
    )
    assert memory_scores(video[:100], video, (36, 64)) == {}
    there = frames_of(4)
    assert mirror_scores(torch.cat([there, there.flip(0)]), (36, 64))["mse"] == 0
    assert mirror_scores(torch.cat([there, there]), (36, 64))["mse"] > 0
    with pytest.raises(InputError, match="even"):
        mirror_scores(there[:3])


def test_colmap_poses_come_back_and_bad_lines_are_named(tmp_path):
    file = tmp_path / "images.txt"
    lines = colmap_text(poses_of(9)).splitlines()
    shuffled = [lines[0], *(line for i in (4, 0, 8, 1, 2, 3, 7, 6, 5) for line in lines[1 + 2 * i : 3 + 2 * i])]
    file.write_text("\n".join(shuffled))
    np.testing.assert_allclose(read_colmap(file), poses_of(9), atol=1e-9)
    for text, message in (("", "no image"), (lines[1].replace(" 0.0 ", " x ", 1), "line 1"),
                          (f"{lines[1]}\n\n{lines[1]}", "line 3: image 1 is there twice")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_colmap(file)
