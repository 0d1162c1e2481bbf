"""The camera of each latent frame."""

import pytest
import torch

from memkit.cameras import Cameras, latent_cameras
from memkit.errors import InputError
from tests.helpers.pose_files import cameras


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(("frames", "each"), [(1, 4), (5, 4), (17, 4), (9, 8), (6, 1)])
def test_a_latent_frame_has_the_camera_of_its_last_frame(batch, frames, each):
    given = cameras(frames)
    given = Cameras(given.c2w.expand(*batch, frames, 4, 4), given.intrinsics.expand(*batch, frames, 4))
    got = latent_cameras(given, each)
    last = list(range(0, frames, each))
    assert torch.equal(got.c2w, given.c2w[..., last, :, :])
    assert torch.equal(got.intrinsics, given.intrinsics[..., last, :])


def test_latent_frames_take_four_frames_by_default():
    assert torch.equal(latent_cameras(cameras(9)).c2w, cameras(9).c2w[[0, 4, 8]])


@pytest.mark.parametrize(("frames", "each"), [(4, 4), (16, 4), (6, 4), (0, 4), (0, 1), (5, 0), (3, -1)])
def test_cameras_that_are_not_those_of_whole_latent_frames_are_refused(frames, each):
    with pytest.raises(InputError):
        latent_cameras(cameras(frames), each)
    with pytest.raises(InputError):
        latent_cameras(Cameras(torch.eye(4), torch.ones(4)))
