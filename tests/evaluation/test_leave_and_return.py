"""The leave-and-return protocol: schedules that end where they began, and its scores."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from memkit.cameras import yaw_degrees
from memkit.errors import InputError
from memkit.evaluation.benchmarks import LeaveAndReturn, return_scores
from memkit.evaluation.benchmarks.leave_and_return import SCHEDULES, scored
from memkit.evaluation.benchmarks.output import read_image
from memkit.video import read_video
from tests.helpers.benchmark_data import frames_of, pictures_in


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures_in(tmp_path_factory.mktemp("return") / "pictures")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_turns_evenly_and_ends_where_it_began(data, schedule):
    (task, *_) = LeaveAndReturn(data, prompt="a bear", schedules=(schedule,)).tasks()[1:]
    cameras, turns = task.given(36, 64).cameras, SCHEDULES[schedule]  # type: ignore[misc]
    assert len(cameras.c2w) == 1 + 80 * len(turns) == 1 + task.length
    assert torch.allclose(cameras.c2w[-1], cameras.c2w[0], atol=1e-12)
    yaw = torch.tensor(yaw_degrees(cameras))
    assert torch.allclose(yaw[::80], torch.tensor([0, *accumulate(turns)]).to(yaw), atol=1e-4)
    assert torch.allclose(yaw.diff()[:80], torch.tensor(turns[0] / 80).to(yaw), atol=1e-4)


def test_files_are_named_as_published_and_distinct(data):
    tasks = LeaveAndReturn(data, schedules=("rot180_4chunk",), chunk_frames=17).tasks()
    assert [task.group for task in tasks] == ["replay", "rot180_4chunk", "rot180_4chunk"]
    assert all(task.file.endswith("/revisit_gen_only.mp4") and task.file.isascii() for task in tasks)
    assert tasks[0].length == 8 and len({task.file for task in tasks}) == 3
    with pytest.raises(InputError, match="no schedule rot90"):
        LeaveAndReturn(data, schedules=("rot90",))


def test_the_last_frame_is_compared_with_the_picture_and_a_replay_with_all_frames(data):
    replay, _, bear = LeaveAndReturn(data, schedules=("rot180_4chunk",)).tasks()
    benchmark, picture = LeaveAndReturn(data), read_image(data / "bear.png")
    video = torch.stack([255 - picture, picture])
    assert benchmark.score(bear, video) == {"mse": 0.0, "psnr": 100.0, "ssim": pytest.approx(1.0)}
    large = scored(video)
    assert large.shape == (2, 352, 640, 3)
    error = float((large[0].double() - large[1].double()).square().mean())
    assert (
        benchmark.score(bear, video.flip(0))["mse"] == pytest.approx(error) == return_scores(video[0], picture)["mse"]
    )
    truth = read_video(data / "walk.mp4").frames[:3]
    assert benchmark.score(replay, truth[1:])["psnr"] == 100.0
    moved = benchmark.score(replay, frames_of(3, seed=4)[1:])
    assert 0 < moved["psnr"] < 30 and moved["mse"] > 100
