"""CameraPath: its definition, the rows of a chunk, degenerate cameras."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.cameras import CameraPath, Cameras
from memkit.errors import InputError
from tests.helpers.differ import differ
from tests.positions.common import cameras, path_by_definition


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64]))
def test_a_path_is_that_of_the_definition(frames, seed, dtype):
    cams = cameras(frames, seed=seed, dtype=dtype)
    path, (vectors, projections) = CameraPath.of(cams), path_by_definition(cams)
    bound = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(path.vectors.double(), vectors, **bound)
    torch.testing.assert_close(path.projection.double(), projections, **bound)
    identity = torch.eye(4, dtype=torch.float64).expand(2, frames, 4, 4)
    torch.testing.assert_close(path.projection.double() @ path.unprojection.double(), identity, **bound)
    assert path.vectors.dtype == path.projection.dtype == path.unprojection.dtype == dtype


def test_a_chunk_takes_rows_of_the_clip_and_is_not_normalised_again():
    cams = cameras(6)
    path = CameraPath.of(cams)
    chunk = path.frames([4, 3, 4])
    assert torch.equal(chunk.vectors, path.vectors[:, [4, 3, 4]])
    assert torch.equal(chunk.projection, path.projection[:, [4, 3, 4]])
    own = CameraPath.of(Cameras(cams.c2w[:, [4, 3, 4]], cams.intrinsics[:, [4, 3, 4]]))
    assert differ(chunk.vectors, own.vectors, rtol=1e-5, atol=1e-8)


def test_a_trembling_camera_does_not_travel_and_unknown_focal_lengths_are_zeros():
    cams = cameras(4, batch=1)
    cams.c2w[..., :3, 3] *= 1e-6
    path = CameraPath.of(Cameras(cams.c2w[0], cams.intrinsics[0] * 0))
    assert 0 < path.vectors[..., :3].abs().max() < 1e-2
    assert (path.vectors[..., 12:] == 0).all()
    torch.testing.assert_close(path.projection, torch.linalg.inv(path.c2w))


def test_cameras_that_are_none_are_refused():
    good = cameras(3)
    for rows in ([], [3], [-1]):
        with pytest.raises(InputError, match="frames 0 to 2"):
            CameraPath.of(good).frames(rows)
    for change in (2.0, -1.0, math.nan):
        bad = good.c2w.clone()
        bad[1, 2, 0, :3] *= change
        with pytest.raises(InputError, match=r"\[1, 2\]"):
            CameraPath.of(Cameras(bad, good.intrinsics))
    with pytest.raises(InputError, match="Focal"):
        CameraPath.of(Cameras(good.c2w, -good.intrinsics))
    with pytest.raises(InputError, match="not \\[\\]"):
        CameraPath.of(Cameras(good.c2w[0, 0], good.intrinsics[0, 0]))
