"""Retrieval by field of view with known depth: what walls hide."""

import pytest
import torch

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.retrievers import FOVRetriever, Points, View
from memkit.worlds import Scene, body, render
from tests.helpers.fov_cameras import FEW, cameras, circle, one, share

WALL = body("wall", "box", (4.0, 0.0, 0.0), (0.1, 20.0, 20.0), (1.0, 0.0, 0.0))


def depth_of(camera, *bodies):
    # a scene needs a body: one far behind every camera here
    scene = Scene((*bodies, body("behind", "sphere", (-500.0, 0.0, 0.0), 1.0, (0.0, 0.0, 0.0))))
    return render(scene, Cameras(camera.c2w[None], camera.intrinsics[None]), 24, 24, antialias=False).depth


def test_a_wall_between_two_cameras_hides():
    before, beyond = one(), one(x=5.0)
    walled = depth_of(before, WALL)
    assert share(before, beyond, FEW) > 0.1
    assert share(before, beyond, FEW, depth=walled) == 0  # the frame saw the wall, the query looks on beyond it
    assert share(before, beyond, FEW, depth=depth_of(before)) == share(before, beyond, FEW)
    # the query sees the wall, the frame saw what is beyond
    assert share(beyond, before, FEW) > 0.05
    assert share(beyond, before, FEW, depth=depth_of(beyond, WALL)) > 0.05
    assert share(beyond, View(before, walled[0]), FEW, depth=depth_of(beyond, WALL)) == 0
    # equal views of known depth; without the query's depth, what the frame saw is (3.9 + margin)³ of 10³, more aside
    assert share(before, View(before, walled[0]), FEW, depth=walled) == 1
    assert 0.07 < share(before, before, Points(count=100_000), depth=walled) < 0.1


def test_depth_is_read_at_the_pixel_a_point_falls_on():
    frame = Cameras(torch.eye(4, dtype=torch.float64)[None], one().intrinsics[None])
    for hidden, axis in (((slice(None), slice(0, 2)), 0), ((slice(0, 3), slice(None)), 1)):
        depth = torch.full((1, 6, 4), torch.inf)
        depth[0][hidden] = 0.0
        asked = Points(margin=0).views(frame)
        seen = Points(margin=0).views(frame, depth).seen(asked, torch.tensor([0]))[0]
        assert torch.equal(seen, asked.points()[:, axis] >= 0)
    depth = torch.full((1, 6, 4), 5.0)
    seen = Points(margin=1.0).views(frame, depth).seen(asked, torch.tensor([0]))[0]
    assert torch.equal(seen, asked.points().norm(dim=1) <= 6)


def test_depth_that_does_not_fit_is_named():
    cams, depth = cameras(circle()), torch.ones(48, 2, 2)
    with pytest.raises(InputError, match="does not use it"):
        FOVRetriever(cams, depth=depth)
    with pytest.raises(InputError, match="does not use it"):
        FOVRetriever(cams)(View(one(), depth[0]))
    with pytest.raises(InputError, match="each of 48 cameras"):
        FOVRetriever(cams, "points", depth=depth[:3])
    for wrong in (torch.nan, -1.0):
        with pytest.raises(InputError, match="NaN or values below 0"):
            FOVRetriever(cams, "points", depth=depth.index_fill(0, torch.tensor(7), wrong))
    with pytest.raises(InputError, match="sees none"):
        FOVRetriever(cams, Points(margin=0), depth=depth)(View(one(), torch.zeros(2, 2)))
