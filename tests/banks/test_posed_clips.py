"""Clips of video files with poses: the frames nearest in time, each with its own camera, seen along the same rays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memkit.backbones import VideoFormat
from memkit.banks import posed_chunks, posed_clip
from memkit.banks.posed_clips import cropped
from memkit.cameras import Cameras, write_poses
from memkit.errors import InputError
from memkit.video import read_clip, read_video, resize, write_video
from tests.helpers.pose_files import cameras

FORM = VideoFormat(9, 16, 16, 4.0)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """20 frames of 20×32 at 8 frames per second."""
    frames = torch.randint(0, 256, (20, 20, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "walk.mp4", frames, 8.0)
    return tmp_path / "walk.mp4"


def test_without_poses_it_is_read_clip(video: Path) -> None:
    frames, seen = posed_clip(video, FORM)
    assert seen is None
    assert torch.equal(frames, resize(read_clip(video, 4.0, 9), 16, 16))


def test_each_frame_keeps_its_own_camera(video: Path) -> None:
    path = cameras(20)
    write_poses(video.with_suffix(".npz"), path)
    frames, seen = posed_clip(video, FORM)
    assert seen is not None
    assert torch.equal(frames, resize(read_video(video).frames[:17:2], 16, 16))
    assert torch.equal(seen.c2w, path.c2w[:17:2])
    torch.testing.assert_close(seen.intrinsics, cropped(path.intrinsics[:17:2], (20, 32), (16, 16)))


def test_a_video_too_short_and_poses_of_another_one_are_named(video: Path) -> None:
    path = cameras(20)
    write_poses(video.with_suffix(".npz"), path)
    with pytest.raises(InputError, match=r"walk.mp4 has 10 frames at 4.0 frames per second, a clip needs 13"):
        posed_clip(video, VideoFormat(13, 16, 16, 4.0))
    write_poses(video.with_suffix(".npz"), Cameras(path.c2w[:9], path.intrinsics[:9]))
    with pytest.raises(InputError, match=r"walk.npz has 9 poses.*20 frames"):
        posed_clip(video, FORM)


def test_cropping_keeps_the_rays_of_pixels() -> None:
    intrinsics = torch.tensor([0.9, 1.2, 0.45, 0.55]).double()
    after = cropped(intrinsics, (40, 64), (32, 32))
    x, y = 0.1, -0.2  # of a ray, at depth 1
    before = torch.tensor([(intrinsics[0] * x + intrinsics[2]) * 64, (intrinsics[1] * y + intrinsics[3]) * 40])
    scale = max(32 / 40, 32 / 64)
    shift = torch.tensor([(64 * scale - 32) / 2, (40 * scale - 32) / 2])
    torch.testing.assert_close(
        torch.stack([(after[0] * x + after[2]) * 32, (after[1] * y + after[3]) * 32]), before * scale - shift
    )


def test_chunks_share_a_frame_and_are_whole(video: Path) -> None:
    path = cameras(20)
    write_poses(video.with_suffix(".npz"), path)
    form = VideoFormat(4, 16, 16, 4.0)
    posed = list(posed_chunks(video, form, video.with_suffix(".npz")))
    plain = list(posed_chunks(video, form, None))
    assert len(posed) == len(plain) == 3  # 20 frames at 8 per second are 10 at 4, of which the chunks take 1 + 3·3
    for i, ((frames, seen), (same, none)) in enumerate(zip(posed, plain, strict=True)):
        assert none is None and torch.equal(frames, same)
        at = slice(6 * i, 6 * i + 7, 2)
        assert torch.equal(frames, resize(read_video(video).frames[at], 16, 16))
        assert seen is not None and torch.equal(seen.c2w, path.c2w[at])
