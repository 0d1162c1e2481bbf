"""A video that grows: what was added can be read before the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from memkit.errors import InputError, MediaError
from memkit.video import VideoWriter, read_video, write_video


def smooth(frames: int) -> Tensor:
    """A grey ramp that moves and brightens."""
    x = torch.arange(32)[None, None, :] + 3 * torch.arange(frames)[:, None, None] + torch.zeros(1, 32, 1)
    return (4 * x % 256).clamp(0, 255).to(torch.uint8)[..., None].repeat(1, 1, 1, 3)


def test_what_was_added_is_there_at_once_and_all_at_the_end(tmp_path: Path) -> None:
    video, file = smooth(20), tmp_path / "grows.mp4"
    with VideoWriter(file, 8.0) as writer:
        assert not file.exists()
        for end in (1, 9, 20):
            start = {1: 0, 9: 1, 20: 9}[end]
            writer.add(video[start:end])
            if end > 1:
                assert len(read_video(file).frames) >= end - 1
    whole = read_video(file)
    write_video(tmp_path / "usual.mp4", video, 8.0)
    usual = read_video(tmp_path / "usual.mp4")
    assert whole.fps == usual.fps == 8.0 and len(whole.frames) == 20
    error, usual_error = ((made.frames.int() - video.int()).abs().float().mean() for made in (whole, usual))
    assert error < usual_error + 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fps is 0"):
        VideoWriter(tmp_path / "a.mp4", 0)
    with VideoWriter(tmp_path / "a.mp4", 8.0) as writer:
        writer.add(smooth(2))
        with pytest.raises(InputError, match="32×32, not 16×32"):
            writer.add(smooth(1)[:, :16])
        with pytest.raises(InputError, match="even"):
            writer.add(smooth(1)[:, :15])
    assert len(read_video(tmp_path / "a.mp4").frames) == 2
    with pytest.raises(MediaError, match="folder"), VideoWriter(tmp_path / "no" / "a.mp4", 8.0) as writer:
        writer.add(smooth(1))
