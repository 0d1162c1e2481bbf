"""Pose files come back as they were written, mean what their formats say, and bad ones are refused by name."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from memkit.cameras import Cameras, check_rigid, latent_cameras, poses_beside, read_poses, write_poses
from memkit.errors import InputError


def cameras(frames: int = 5, seed: int = 0, dtype=torch.float64) -> Cameras:
    """Random rotations, places within some metres, a lens of its own each."""
    generator = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    turn = torch.linalg.qr(torch.randn(frames, 3, 3, generator=generator, dtype=torch.float64))[0]
    c2w[:, :3, :3] = turn * torch.linalg.det(turn)[:, None, None]
    c2w[:, :3, 3] = 5 * torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.rand(frames, 4, generator=generator, dtype=torch.float64) + 0.2
    return Cameras(c2w.to(dtype), intrinsics.to(dtype))


def close(got: Cameras, want: Cameras, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got.c2w, want.c2w, atol=atol, rtol=0, check_dtype=False)
    torch.testing.assert_close(got.intrinsics, want.intrinsics, atol=atol, rtol=0, check_dtype=False)


def npz(path: Path, **changes) -> Path:
    """A file of two frames; an array that is None is left out."""
    good = cameras(2)
    arrays = {"c2w": good.c2w.numpy(), "intrinsics": good.intrinsics.numpy()} | changes
    np.savez(path, **{name: np.asarray(a) for name, a in arrays.items() if a is not None})
    return path


def line(w2c: torch.Tensor, intrinsics=(0.9, 1.6, 0.5, 0.5), k=("0.0", "0.0"), time: int = 0) -> str:
    return " ".join(map(str, [time, *intrinsics, *k, *w2c[:3].flatten().tolist()]))


def text(path: Path, *lines: str, url: str = "https://www.youtube.com/watch?v=x") -> Path:
    path.write_text("\n".join([url, *lines]) + "\n")
    return path


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
    """By projection: what the file's matrix puts at a place before the camera, the pose that was read puts back."""
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


def test_one_lens_for_all_frames(tmp_path):
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


# -- what is refused ---------------------------------------------------------------------------------------------------


def pose(**cells: float) -> np.ndarray:
    """Two poses, of which the second has some cells changed: m03 is row 0, column 3."""
    c2w = cameras(2).c2w.numpy().copy()
    for name, value in cells.items():
        c2w[1, int(name[1]), int(name[2])] = value
    return c2w


def turned(matrix: np.ndarray) -> np.ndarray:
    """Two poses, the second with its axes changed."""
    c2w = cameras(2).c2w.numpy().copy()
    c2w[1, :3, :3] = c2w[1, :3, :3] @ matrix
    return c2w


K = np.array([[320.0, 0, 300], [0, 400, 120], [0, 0, 1]])
PIXELS = {"intrinsics": None, "K": K, "width": 640, "height": 480}
BAD_NPZ = {
    "not finite": ({"c2w": pose(m03=np.nan)}, "pose 1 is not a rigid transform"),
    "infinite": ({"c2w": pose(m03=np.inf)}, "pose 1 is not a rigid transform"),
    "mirrored": ({"c2w": turned(np.diag([1.0, 1, -1]))}, "pose 1 is not a rigid transform"),
    "scaled": ({"c2w": turned(np.eye(3) * 1.01)}, "pose 1 is not a rigid transform"),
    "sheared": ({"c2w": turned(np.eye(3) + 0.01 * np.eye(3, k=1))}, "pose 1 is not a rigid transform"),
    "last row": ({"c2w": pose(m33=2)}, "pose 1 is not a rigid transform"),
    "transposed": ({"c2w": cameras(2).c2w.numpy().swapaxes(1, 2)}, "pose 0 is not a rigid transform"),
    "3×4": ({"c2w": cameras(2).c2w.numpy()[:, :3]}, "give camera-to-world matrices"),
    "one pose": ({"c2w": np.eye(4)}, "give camera-to-world matrices"),
    "no frame": ({"c2w": np.zeros((0, 4, 4)), "intrinsics": np.zeros((0, 4))}, "one frame or more"),
    "no c2w": ({"c2w": None}, "needs c2w"),
    "no lens": ({"intrinsics": None}, "either intrinsics or K"),
    "two lenses": ({"K": K, "width": 640, "height": 480}, "either intrinsics or K"),
    "wrong count": ({"intrinsics": np.ones((3, 4))}, r"\[3, 4\]"),
    "lens of 3": ({"intrinsics": np.ones(3)}, r"\[3\]"),
    "lens not a number": ({"intrinsics": [0.9, 0.9, 0.5, np.nan]}, "intrinsics of frame 0"),
    "lens infinite": ({"intrinsics": [0.9, 0.9, np.inf, 0.5]}, "intrinsics of frame 0"),
    "negative lens": ({"intrinsics": [[0.9, 0.9, 0.5, 0.5], [0.9, -0.9, 0.5, 0.5]]}, "intrinsics of frame 1"),
    "lens in pixels": ({"intrinsics": [320, 400, 300, 120]}, "in pixels"),
    "no width": (PIXELS | {"width": None}, "needs the numbers width"),
    "two heights": (PIXELS | {"height": [480, 480]}, "one number each"),
    "no size": (PIXELS | {"height": 0}, "one number each"),
    "skew": (PIXELS | {"K": K + [[0, 1, 0], [0, 0, 0], [0, 0, 0]]}, "skew"),
    "K transposed": (PIXELS | {"K": K.T}, "skew"),
    "K of 3×4": (PIXELS | {"K": np.ones((3, 4))}, r"give \[3, 3\]"),
    "K count": (PIXELS | {"K": np.stack([K] * 3)}, r"\[3, 4\]"),
    "words": ({"c2w": np.array(["a"])}, "real numbers"),
    "complex": ({"intrinsics": np.ones(4, dtype=complex)}, "real numbers"),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_bad_npz_is_refused_by_name(tmp_path, name):
    changes, message = BAD_NPZ[name]
    path = npz(tmp_path / "p.npz", **changes)
    with pytest.raises(InputError, match=message) as caught:
        read_poses(path)
    assert str(path) in str(caught.value)


def test_nothing_pickled_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    npz(tmp_path / "p.npz", intrinsics=np.array([Trap()], dtype=object))
    with pytest.raises(InputError, match="without objects"):
        read_poses(tmp_path / "p.npz")
    assert not (tmp_path / "sprung").exists()


def test_the_tolerance_of_rotations_lets_half_precision_pass_and_no_more():
    good = cameras(64)
    check_rigid(good.c2w.half(), "fp16")
    one = good.c2w[0]
    for error, fine in ((0.9e-3, True), (1.1e-3, False)):
        off = one.clone()
        off[:3, :3] *= (1 + error) ** 0.5
        if fine:
            check_rigid(off, "near")
            continue
        with pytest.raises(InputError, match="far: the pose"):
            check_rigid(off, "far")


EYE = line(torch.eye(4))
BAD_TEXT = {
    "distortion": ([EYE, line(torch.eye(4), k=("0.0", "-0.01"))], "line 3: the distortion is 0.0 -0.01"),
    "first coefficient": ([EYE, line(torch.eye(4), k=("1e-9", "0"))], "line 3: the distortion"),
    "a number short": ([EYE, EYE.rsplit(" ", 1)[0]], "line 3 has 18 numbers"),
    "a number more": ([EYE, EYE + " 0"], "line 3 has 20 numbers"),
    "a word": ([EYE.replace("0.9", "zero")], "line 2: could not convert"),
    "nan": ([EYE, EYE.replace("0.9", "nan")], "intrinsics of frame 1"),
    "pose not finite": ([EYE, EYE[:-3] + "inf"], r"\(world to camera\): pose 1"),
    "singular": ([line(torch.zeros(4, 4))], "pose 0 is not a rigid transform"),
    "mirrored": ([line(torch.diag(torch.tensor([1.0, 1, -1, 1])))], "pose 0 is not a rigid transform"),
    "no frame": ([], "holds no pose"),
    "pixels": ([line(torch.eye(4), intrinsics=(320, 400, 300, 120))], "in pixels"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_a_bad_text_is_refused_by_name(tmp_path, name):
    lines, message = BAD_TEXT[name]
    path = text(tmp_path / "p.txt", *lines)
    with pytest.raises(InputError, match=message) as caught:
        read_poses(path)
    assert str(path) in str(caught.value)


def test_a_text_without_its_url_would_lose_a_frame(tmp_path):
    with pytest.raises(InputError, match="line 1 is a pose"):
        read_poses(text(tmp_path / "p.txt", EYE, url=EYE))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "p.npz").write_bytes(b"junk")
    np.save(tmp_path / "array.npy", np.eye(4))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("c2w", "words")
        archive.writestr("intrinsics", "words")
    (tmp_path / "latin.txt").write_bytes("straße".encode("latin-1"))
    for name, message in (
        ("p.npz", "plain arrays"),
        ("array.npz", "plain arrays"),
        ("zip.npz", "no array"),
        ("latin.txt", "no text"),
        ("nothing.npz", "cannot be read"),
        ("p.json", "no pose file by its name"),
    ):
        with pytest.raises(InputError, match=message):
            read_poses(tmp_path / name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_by(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4), st.floats(0, 1))
def test_a_damaged_npz_gives_its_poses_or_an_input_error(tmp_path, flips, cut):
    path = tmp_path / "p.npz"
    with io.BytesIO() as buffer:
        np.savez_compressed(buffer, c2w=cameras(2).c2w.numpy(), intrinsics=cameras(2).intrinsics.numpy())
        data = bytearray(buffer.getvalue())
    for where, what in flips:
        data[int(where * (len(data) - 1))] ^= what
    path.write_bytes(data[: int(cut * len(data))] if cut < 0.5 else data)
    try:
        got = read_poses(path)
    except InputError:
        return
    close(got, cameras(2))  # zip's checksums guard the numbers


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


@pytest.mark.parametrize(
    "caption", [b"", b"a ball falls", b"a ball falls\nand bounces 3 times\n", b"\xff\n\xff", b"a\n\n"]
)
def test_a_caption_is_no_pose_file(tmp_path, caption):
    (tmp_path / "walk.txt").write_bytes(caption)
    assert poses_beside(tmp_path / "walk.mp4") is None


def test_a_folder_of_that_name_is_no_pose_file(tmp_path):
    (tmp_path / "walk.npz").mkdir()
    assert poses_beside(tmp_path / "walk.mp4") is None


# -- latent frames -----------------------------------------------------------------------------------------------------


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
