"""Pose files come back as they were written and mean what their formats say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from memkit.cameras import (
    Cameras,
    frame_cameras,
    latent_cameras,
    poses_beside,
    poses_file,
    read_poses,
    write_poses,
)
from memkit.errors import InputError
from tests.helpers.pose_files import cameras, close, line, npz, text

# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [1, 7])
def test_npz_is_read_back_to_the_bit(tmp_path, dtype, frames):
    given = cameras(frames, dtype=dtype)
    write_poses(tmp_path / "p.npz", given)
    got = read_poses(tmp_path / "p.npz")
    assert got.c2w.dtype == got.intrinsics.dtype == dtype
    assert torch.equal(got.c2w, given.c2w) and torch.equal(got.intrinsics, given.intrinsics)


def test_half_precision_is_kept_as_fp32(tmp_path):
    given = cameras(3, dtype=torch.float16)
    write_poses(tmp_path / "p.npz", given)
    got = read_poses(tmp_path / "p.npz")
    assert got.c2w.dtype == torch.float32 and torch.equal(got.c2w, given.c2w.float())


def test_intrinsics_of_a_finer_dtype_than_the_poses_lose_nothing(tmp_path):
    given = cameras(3)
    write_poses(tmp_path / "p.npz", Cameras(given.c2w.float(), given.intrinsics))
    assert torch.equal(read_poses(tmp_path / "p.npz").intrinsics, given.intrinsics)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_by(st.integers(1, 9), st.integers(0, 99))
def test_text_is_read_back_nearly_to_the_bit(tmp_path, frames, seed):
    given = cameras(frames, seed)
    write_poses(tmp_path / "p.txt", given)
    got = read_poses(tmp_path / "p.txt")
    close(got, given)
    assert torch.equal(got.intrinsics, given.intrinsics)


def test_equal_cameras_give_equal_files(tmp_path):
    for suffix in ("npz", "txt"):
        for name in "ab":
            write_poses(tmp_path / f"{name}.{suffix}", cameras())
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


# -- what the formats say ----------------------------------------------------------------------------------------------


def test_realestate10k_is_world_to_camera(tmp_path):
    """By projection: what the file's matrix puts at a point before the camera, the pose that was read puts back."""
    good = cameras(3)
    w2c = torch.linalg.inv(good.c2w)
    path = text(tmp_path / "p.txt", *(line(m, time=33_366 * i) for i, m in enumerate(w2c)))
    got = read_poses(path)
    point = torch.tensor([0.3, -2.0, 4.0], dtype=torch.float64)
    seen = w2c[:, :3, :3] @ point + w2c[:, :3, 3]
    back = (got.c2w[:, :3, :3] @ seen[..., None])[..., 0] + got.c2w[:, :3, 3]
    torch.testing.assert_close(back, point.expand(3, 3), atol=1e-12, rtol=0)
    assert got.intrinsics.tolist() == [[0.9, 1.6, 0.5, 0.5]] * 3


def test_a_written_text_has_the_lines_of_realestate10k(tmp_path):
    """A camera at x = 2 that looks along world -x, y down: its world-to-camera matrix by hand."""
    c2w = torch.tensor([[0, 0, -1, 2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    intrinsics = torch.tensor([0.5, 0.75, 0.5, 0.25], dtype=torch.float64)
    write_poses(tmp_path / "p.txt", Cameras(c2w.repeat(2, 1, 1), intrinsics.repeat(2, 1)))
    url, *rows, end = (tmp_path / "p.txt").read_text().split("\n")
    assert ":" in url and end == "" and len(rows) == 2
    for number, row in enumerate(rows):
        want = [number, 0.5, 0.75, 0.5, 0.25, 0, 0] + [0, 0, 1, 0] + [0, 1, 0, 0] + [-1, 0, 0, 2]
        assert [float(word) for word in row.split()] == want


def test_intrinsics_of_one_camera_are_those_of_all_frames(tmp_path):
    got = read_poses(npz(tmp_path / "p.npz", intrinsics=[0.9, 1.6, 0.5, 0.4]))
    assert got.intrinsics.tolist() == [[0.9, 1.6, 0.5, 0.4]] * 2


@pytest.mark.parametrize("each", [True, False])
def test_pixel_intrinsics_are_over_the_sides(tmp_path, each):
    k = np.array([[320.0, 0, 300], [0, 400, 120], [0, 0, 1]])
    k = np.stack([k, k * [[2, 1, 1], [1, 1, 1], [1, 1, 1]]]) if each else k
    got = read_poses(npz(tmp_path / "p.npz", intrinsics=None, K=k, width=640, height=[480]))
    want = [320 / 640, 400 / 480, 300 / 640, 120 / 480]
    assert got.intrinsics.tolist() == [want, [2 * want[0], *want[1:]] if each else want]


def test_whole_numbers_and_other_byte_orders_are_numbers(tmp_path):
    got = read_poses(npz(tmp_path / "p.npz", c2w=np.stack([np.eye(4, dtype=int)] * 2)))
    assert got.c2w.dtype == torch.float64 and torch.equal(got.c2w[0], torch.eye(4, dtype=torch.float64))
    big = cameras(2).c2w.numpy().astype(">f4")
    assert torch.equal(read_poses(npz(tmp_path / "p.npz", c2w=big)).c2w.float(), cameras(2).c2w.float())


def test_an_unknown_focal_length_is_0(tmp_path):
    assert read_poses(npz(tmp_path / "p.npz", intrinsics=[0.0, 0.0, 0.5, 0.5])).intrinsics[0, 0] == 0


# -- what is not written ---------------------------------------------------------------------------------------------


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    good = cameras(2)
    bad = [
        (tmp_path / "p.npz", Cameras(good.c2w * 2, good.intrinsics)),
        (tmp_path / "p.txt", Cameras(good.c2w, good.intrinsics * torch.nan)),
        (tmp_path / "p.npz", Cameras(good.c2w[None], good.intrinsics[None])),
        (tmp_path / "p.npz", Cameras(good.c2w[0], good.intrinsics[0])),
        (tmp_path / "p.json", good),
        (tmp_path / "nowhere" / "p.npz", good),
    ]
    for path, given in bad:
        with pytest.raises(InputError, match=re.escape(str(path))):
            write_poses(path, given)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "p.npz").mkdir()
    (tmp_path / "p.npz" / "kept").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_poses(tmp_path / "p.npz", cameras(2))
    assert [p.name for p in tmp_path.rglob("*")] == ["p.npz", "kept"]


@pytest.mark.parametrize(
    "k, message",
    [
        ([[0.78, 0, 0.5], [0, 1.04, 0.5], [0, 0, 1]], "not in pixels; write it as intrinsics"),
        ([[500, 0, 240], [0, 500, 320], [0, 0, 1]], "exchange width and height"),
        ([[500, 0, 700], [0, 500, 240], [0, 0, 1]], "the intrinsics of camera 0"),
        ([[5, 0, 320], [0, 5, 240], [0, 0, 1]], "the intrinsics of camera 0"),
    ],
)
def test_a_matrix_that_is_not_in_pixels_of_the_image_is_refused(tmp_path, k, message):
    with pytest.raises(InputError, match=message):
        read_poses(npz(tmp_path / "p.npz", intrinsics=None, K=k, width=640, height=480))


# -- beside a video ----------------------------------------------------------------------------------------------------


def test_poses_beside_a_video(tmp_path):
    video = tmp_path / "walk.1.mp4"
    write_poses(tmp_path / "walk.npz", cameras(2))  # another video's
    assert poses_beside(video) is None
    write_poses(tmp_path / "walk.1.txt", cameras(2))
    assert poses_beside(video) == poses_beside(str(video)) == tmp_path / "walk.1.txt"
    write_poses(tmp_path / "walk.1.npz", cameras(2))
    with pytest.raises(InputError, match="keep one"):
        poses_beside(video)
    (tmp_path / "walk.1.txt").unlink()
    assert poses_beside(video) == tmp_path / "walk.1.npz"
    write_poses(poses_file(video), cameras(2))
    with pytest.raises(InputError, match="keep one"):
        poses_beside(video)
    (tmp_path / "walk.1.npz").unlink()
    assert poses_beside(video) == poses_file(video) == tmp_path / "walk.1.poses.npz"


def test_the_cameras_of_frames_are_those_of_their_latent_frames():
    few = cameras(3)
    every = frame_cameras(few, 4)
    assert every.c2w.shape[0] == 9 and torch.equal(every.c2w[1:5], few.c2w[1].expand(4, 4, 4))
    back = latent_cameras(every, 4)
    assert torch.equal(back.c2w, few.c2w) and torch.equal(back.intrinsics, few.intrinsics)


@pytest.mark.parametrize(
    "caption",
    [
        b"",
        b"a ball falls",
        b"a ball falls\nand bounces 3 times\n",
        b"\xff\n\xff",
        b"a\n\n",
        b"A street.\n3 people walk by.\n",
        b"A walk.\n2024, a wide road.\n",
        b"A villa\ninfinity pool seen from above\n",
        b"A year\n2024\n",
        b"Two years\n1985 2024\n",
        b"Sums\ninf nan\n",
        b"A view\n\n3 2 1 and the rocket starts, 10 m, 20 m, 30 m high\n",
        b"1 2 3 4 5 6 7 8 9\nnan inf nan inf nan inf nan inf\n",
        b"A countdown\n5 4 3 2 1 go\n",
        b"see https://example.org/a\n",
        b"one line of 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19",
    ],
)
def test_a_caption_is_no_pose_file(tmp_path, caption):
    (tmp_path / "walk.txt").write_bytes(caption)
    assert poses_beside(tmp_path / "walk.mp4") is None


@pytest.mark.parametrize(
    ("old", "new"), [(" ", "\0"), ("0.9", "zero"), ("\n", "\n\n"), ("0 0", "0 \xff"), ("1.0", "nan")]
)
def test_a_damaged_pose_file_is_not_taken_for_a_caption(tmp_path, old, new):
    path = text(tmp_path / "walk.txt", line(torch.eye(4)), line(torch.eye(4)))
    whole = path.read_text()
    for content in (whole.replace(old, new, 1), whole[: len(whole) * 2 // 5], whole.split("\n")[0]):
        path.write_bytes(content.encode("latin-1"))
        assert poses_beside(tmp_path / "walk.mp4") == path


def test_a_folder_of_that_name_is_no_pose_file(tmp_path):
    (tmp_path / "walk.npz").mkdir()
    assert poses_beside(tmp_path / "walk.mp4") is None


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "poses.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(block, names)
    (tmp_path / "example.txt").write_text(re.findall(r"```text\n(.*?)```", page, re.S)[0])
    assert read_poses(tmp_path / "example.txt").c2w[1, :3, 3].tolist() == [0, 0, 0.5]
