"""The one check of cameras, for all who store, read or compare them: rigid poses and plausible intrinsics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.checks import has_values, shown
from memkit.errors import InputError

ROTATION_TOLERANCE = 1e-3
"""How far any element of R Rᵀ may be from the identity. Rotations rounded to fp16 stay below it (an element is off by
2⁻¹² at most), a scale of 1.001 does not."""
FOCAL_RANGE = (0.05, 50.0)
"""Focal lengths over the image's width or height: fields of view from 169° to 1.1°. Numbers below it are often
normalised twice, those above it are in pixels."""


def check_rigid(c2w: Float[Tensor, "*batch 4 4"], name: str) -> None:
    """Raises `InputError` unless every pose is a finite rotation and translation; ``name`` begins the message."""
    if not _is_real(c2w) or c2w.shape[-2:] != (4, 4):
        raise InputError(f"{name}: poses are {shown(c2w)}; give real matrices [..., 4, 4], camera to world.")
    if not has_values(c2w):
        return
    poses = c2w.double()
    rotation, last = poses[..., :3, :3], torch.tensor([0.0, 0.0, 0.0, 1.0]).to(poses)
    off = (rotation @ rotation.mT - torch.eye(3).to(poses)).abs().amax(dim=(-2, -1))
    good = poses.isfinite().all(dim=-1).all(dim=-1) & (off <= ROTATION_TOLERANCE) & (torch.linalg.det(rotation) > 0)
    good &= (poses[..., 3, :] == last).all(dim=-1)
    if not bool(good.all()):
        index = (~good).nonzero()[0].tolist()
        where = f"pose {index[0] if len(index) == 1 else index}" if index else "the pose"
        raise InputError(
            f"{name}: {where} is not a rigid transform; give finite matrices whose rotations are orthonormal "
            f"(to {ROTATION_TOLERANCE}) with determinant +1, the last row 0 0 0 1."
        )


def check_cameras(cameras: Cameras, name: str, unknown_focal: bool = False) -> None:
    """Check that cameras have rigid poses and intrinsics over the image's width and height.

    Args:
        cameras: any leading shape.
        name: begins the error message, such as the name of a file.
        unknown_focal: whether a focal length of 0, which stands for an unknown one, is accepted.

    Raises:
        InputError: these are no cameras, or not one row of intrinsics per pose; a pose is not rigid (see
            `check_rigid`), an intrinsic is not finite, a focal length is outside of `FOCAL_RANGE`, or the principal
            point lies outside of the image.
    """
    if not isinstance(cameras, Cameras):
        raise InputError(f"{name}: {shown(cameras)} is no camera; give Cameras(c2w, intrinsics).")
    check_rigid(cameras.c2w, name)
    if not _is_real(cameras.intrinsics) or cameras.intrinsics.shape != (*cameras.c2w.shape[:-2], 4):
        raise InputError(
            f"{name}: intrinsics are {shown(cameras.intrinsics)}; give fx, fy, cx, cy for each pose, "
            f"{[*cameras.c2w.shape[:-2], 4]}."
        )
    if not has_values(cameras.intrinsics):
        return
    focal, principal = cameras.intrinsics[..., :2], cameras.intrinsics[..., 2:]
    low, high = FOCAL_RANGE
    plausible = (focal >= low) & (focal <= high)
    if unknown_focal:
        plausible |= focal == 0
    good = plausible.all(-1) & ((principal >= 0) & (principal <= 1)).all(-1)
    if not bool(good.all()):
        index = (~good).nonzero()[0].tolist()
        where = f"camera {index[0] if len(index) == 1 else index}" if index else "the camera"
        raise InputError(
            f"{name}: the intrinsics of {where}, {cameras.intrinsics[tuple(index)].tolist()}, are not fx, fy, cx, cy "
            f"over the image's width and height. Focal lengths are {low:g} to {high:g}, the principal point is inside "
            "the image; divide intrinsics in pixels by the width and height once, or write them to an .npz as K, with "
            "width and height."
        )


def _is_real(x: object) -> bool:
    return isinstance(x, Tensor) and not x.is_complex() and x.dtype != torch.bool
