"""Bad pose files are refused by name, and damaged ones never give other poses."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from memkit.cameras import read_poses
from memkit.errors import InputError
from tests.helpers.pose_files import cameras, close, line, npz, text


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
    "no intrinsics": ({"intrinsics": None}, "either intrinsics or K"),
    "intrinsics twice": ({"K": K, "width": 640, "height": 480}, "either intrinsics or K"),
    "wrong count": ({"intrinsics": np.ones((3, 4))}, r"\[3, 4\]"),
    "intrinsics of 3": ({"intrinsics": np.ones(3)}, r"\[3\]"),
    "intrinsics not a number": ({"intrinsics": [0.9, 0.9, 0.5, np.nan]}, "intrinsics of camera 0"),
    "intrinsics infinite": ({"intrinsics": [0.9, 0.9, np.inf, 0.5]}, "intrinsics of camera 0"),
    "negative focal length": ({"intrinsics": [[0.9, 0.9, 0.5, 0.5], [0.9, -0.9, 0.5, 0.5]]}, "intrinsics of camera 1"),
    "intrinsics in pixels": ({"intrinsics": [320, 400, 300, 120]}, "in pixels"),
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


EYE = line(torch.eye(4))
BAD_TEXT = {
    "distortion": ([EYE, line(torch.eye(4), k=("0.0", "-0.01"))], "line 3: the distortion is 0.0 -0.01"),
    "first coefficient": ([EYE, line(torch.eye(4), k=("1e-9", "0"))], "line 3: the distortion"),
    "a number short": ([EYE, EYE.rsplit(" ", 1)[0]], "line 3 has 18 numbers"),
    "a number more": ([EYE, EYE + " 0"], "line 3 has 20 numbers"),
    "a word": ([EYE.replace("0.9", "zero")], "line 2: could not convert"),
    "nan": ([EYE, EYE.replace("0.9", "nan")], "intrinsics of camera 1"),
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
        ("latin.txt", "is not text"),
        ("nothing.npz", "cannot be read"),
        ("p.json", "suffix of a pose file"),
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


@pytest.mark.parametrize(("shape", "says"), [((10**12, 3, 3), "claims"), ((1, 4, 4), "claims 64 bytes")])
def test_an_array_that_claims_other_sizes_than_it_has_is_not_read(tmp_path, shape, says):
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        for name, array in (("c2w", np.eye(4, dtype=np.float32)[None]), ("intrinsics", np.ones(4))):
            with io.BytesIO() as buffer:
                np.lib.format.write_array_header_1_0(
                    buffer, {"shape": shape, "fortran_order": False, "descr": "<f4"}
                ) if name == "c2w" else np.save(buffer, array)
                archive.writestr(f"{name}.npy", buffer.getvalue() + (b"" if name == "intrinsics" else bytes(32)))
    with pytest.raises(InputError, match=says):
        read_poses(tmp_path / "p.npz")


def test_sides_that_are_exchanged_are_noticed_also_where_they_are_close(tmp_path):
    k = np.array([[500.0, 0, 256], [0, 500.0, 208], [0, 0, 1]])
    right = {"intrinsics": None, "K": k, "width": 512, "height": 416}
    assert read_poses(npz(tmp_path / "p.npz", **right)).intrinsics[0, 2:].tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="exchange width and height"):
        read_poses(npz(tmp_path / "q.npz", **right | {"width": 416, "height": 512}))
