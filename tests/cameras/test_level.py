"""A level camera has square pixels; a path that is held ends with its last camera and with a whole chunk."""

from __future__ import annotations

import pytest
import torch

from memkit.cameras import check_rigid, hold_last_camera, latent_cameras, level_camera
from tests.helpers.pose_files import cameras


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80), (80, 48)])
def test_a_level_camera_looks_along_x_with_square_pixels(height: int, width: int) -> None:
    camera = level_camera(height, width, 90.0)
    check_rigid(camera.c2w, "camera")
    assert camera.c2w[:3, 2].tolist() == [1.0, 0.0, 0.0] and camera.c2w[:3, 1].tolist() == [0.0, 0.0, -1.0]
    fx, fy, cx, cy = camera.intrinsics
    assert (cx, cy) == (0.5, 0.5)
    torch.testing.assert_close(fx * width, fy * height)
    torch.testing.assert_close(fx, torch.tensor(0.5).to(fx))  # 90° across the width


@pytest.mark.parametrize(("count", "held"), [(1, 5), (2, 5), (5, 5), (6, 9), (9, 9)])
def test_a_path_is_held_until_its_last_chunk_is_whole(count: int, held: int) -> None:
    path = cameras(count)
    whole = hold_last_camera(path, 4)
    assert len(whole.c2w) == len(whole.intrinsics) == held
    assert torch.equal(whole.c2w[:count], path.c2w) and torch.equal(whole.intrinsics[:count], path.intrinsics)
    assert (whole.c2w[count:] == path.c2w[-1]).all() and (whole.intrinsics[count:] == path.intrinsics[-1]).all()
    assert len(latent_cameras(whole, 4).c2w) == (held + 3) // 4
