"""The check that poses are rigid transforms."""

import pytest
import torch

from memkit.cameras import check_rigid
from memkit.errors import InputError
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
