"""The check of cameras: rigid poses and plausible intrinsics, the same wherever cameras come in."""

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.cameras import Cameras, check_cameras, check_rigid, write_poses
from memkit.errors import InputError
from memkit.retrievers import FOVRetriever
from tests.helpers.pose_files import cameras


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


@pytest.mark.parametrize("batch", [(), (4,), (2, 2)])
def test_the_pose_that_is_wrong_is_named(batch):
    c2w = torch.eye(4).repeat(*batch, 1, 1) if batch else torch.eye(4)
    check_rigid(c2w, "cameras")
    last = tuple(size - 1 for size in batch)
    named = {(): "the pose", (4,): "pose 3", (2, 2): r"pose \[1, 1\]"}[batch]
    for row, column, value in ((0, 0, -1.0), (1, 1, 1.01), (2, 3, torch.nan), (3, 3, 2.0), (3, 0, 1e-6)):
        wrong = c2w.clone()
        wrong[(*last, row, column)] = value
        with pytest.raises(InputError, match=f"cameras: {named} is not a rigid transform"):
            check_rigid(wrong, "cameras")


IMPLAUSIBLE = {
    "in pixels": [500.0, 500.0, 0.5, 0.5],
    "normalised twice": [0.002, 0.002, 0.5, 0.5],
    "negative focal length": [0.9, -0.9, 0.5, 0.5],
    "principal point in pixels": [0.9, 0.9, 320.0, 240.0],
    "principal point off the image": [0.9, 0.9, 0.5, -0.1],
    "not a number": [0.9, 0.9, torch.nan, 0.5],
    "infinite": [torch.inf, 0.9, 0.5, 0.5],
}


@pytest.mark.parametrize("intrinsics", IMPLAUSIBLE.values(), ids=IMPLAUSIBLE)
def test_implausible_intrinsics_are_refused_wherever_cameras_come_in(tmp_path, intrinsics):
    good = cameras(3)
    wrong = Cameras(good.c2w, good.intrinsics.clone())
    wrong.intrinsics[2] = torch.tensor(intrinsics)
    bank = MemoryBank.create(tmp_path / "bank")
    for take in (
        lambda given: check_cameras(given, "cameras"),
        lambda given: write_poses(tmp_path / "poses.npz", given),
        lambda given: bank.add(f"clip {len(bank.ids)}", torch.zeros(2, 3, 4, 4), "a clip", cameras=given),
        lambda given: FOVRetriever(given),
    ):
        take(good)
        with pytest.raises(InputError, match="intrinsics"):
            take(wrong)


def test_an_unknown_focal_length_is_stored_but_not_looked_through(tmp_path):
    unknown = Cameras(cameras(3).c2w, torch.tensor([0.0, 0.0, 0.5, 0.5]).double().repeat(3, 1))
    write_poses(tmp_path / "poses.npz", unknown)
    MemoryBank.create(tmp_path / "bank").add("clip", torch.zeros(2, 3, 4, 4), "a clip", cameras=unknown)
    with pytest.raises(InputError, match="the intrinsics of camera 0"):
        FOVRetriever(unknown)
