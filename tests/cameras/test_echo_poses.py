"""Echo-Memory's poses: the bridge to memkit's convention and back."""

from __future__ import annotations

import json

import pytest
import torch

from memkit.cameras import (
    Cameras,
    echo_yaw,
    from_echo_poses,
    level_camera,
    read_echo_poses,
    relative_pose_vectors,
    to_echo_poses,
    yaw_degrees,
)
from memkit.errors import FileError


@pytest.mark.parametrize("forward", ["x", "y"])
def test_there_and_back_and_what_the_axes_mean(forward) -> None:
    q = torch.linalg.qr(torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()).Q
    c2w = torch.eye(4).double().repeat(2, 4, 1, 1)
    c2w[..., :3, :3] = q * torch.linalg.det(q)[..., None, None]
    c2w[..., :3, 3] = torch.arange(24).view(2, 4, 3)
    rows = to_echo_poses(relative_pose_vectors(c2w), 100, forward)
    relative = torch.linalg.inv(c2w[:, :1]) @ c2w
    torch.testing.assert_close(from_echo_poses(rows, 100, forward), relative)
    assert torch.allclose(torch.linalg.det(rows[..., 3:].unflatten(-1, (3, 3))), torch.ones(2, 4).double())
    ahead = torch.eye(4).repeat(2, 1, 1)
    ahead[1, :3, 3] = torch.tensor([0.5, -2.0, 3.0])  # half a metre to the right, two up, three ahead
    there = to_echo_poses(relative_pose_vectors(ahead), forward=forward)[1, :3].tolist()
    assert there == ([3.0, -0.5, 2.0] if forward == "x" else [0.5, 3.0, 2.0])


def test_a_positive_yaw_turns_left_on_the_spot() -> None:
    rows = echo_yaw(45, 5)
    assert rows.shape == (5, 12) and torch.equal(rows[0], torch.tensor([0.0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]))
    s = 0.5**0.5
    torch.testing.assert_close(rows[-1], torch.tensor([0.0, 0, 0, s, -s, 0, s, s, 0, 0, 0, 1]))
    start = level_camera(32, 32, 60.0)
    for forward in ("x", "y"):  # a turn alone does not depend on it
        c2w = from_echo_poses(rows, forward=forward)
        in_world = Cameras(start.c2w.float() @ c2w, start.intrinsics.expand(5, 4))  # whose z axis points up
        assert yaw_degrees(in_world) == pytest.approx([0, 11.25, 22.5, 33.75, 45], abs=1e-4)
        torch.testing.assert_close(to_echo_poses(relative_pose_vectors(c2w), forward=forward), rows)


def test_the_authors_files(tmp_path) -> None:
    rows = echo_yaw(-45, 81)
    content = {str(i): row for i, row in enumerate(rows.tolist())}
    for name, held in (("plain", content), ("nested", {"actions": content})):
        (file := tmp_path / f"{name}.json").write_text(json.dumps(held))
        assert torch.allclose(read_echo_poses(file), rows) and read_echo_poses(file)[::4].shape == (21, 12)
    (file := tmp_path / "bad.json").write_text(json.dumps({**content, "7": [0.0] * 11}))
    with pytest.raises(FileError, match="no pose 7 of 12 numbers"):
        read_echo_poses(file)
