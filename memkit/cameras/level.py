"""Camera paths for generated videos: a level camera to start from, and a path extended to the length of the video."""

from __future__ import annotations

import math

import torch

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.checks import MOST_FRAMES, check_whole
from memkit.errors import InputError

EYE = (0.0, 0.0, 1.5)
"""Position of a level camera in metres: 1.5 m above the ground, at the height of a person's eyes."""


def level_camera(height: int, width: int, fov_degrees: float) -> Cameras:
    """One camera, with fields of shape [4, 4] and [4], that stands at `EYE` and looks horizontally along +x.

    It is the start of a path for an image whose camera is not known, for example in `cameras_from_keys`.

    Args:
        height: height of the image.
        width: width of the image; pixels are square.
        fov_degrees: the full horizontal field of view.

    Raises `InputError` for sides below 1, and for a field of view that `Cameras.look_at` does not take.
    """
    check_whole("height", height, 1)
    check_whole("width", width, 1)
    eye = torch.tensor(EYE, dtype=torch.float64)
    camera = Cameras.look_at(eye, eye + torch.tensor([1.0, 0.0, 0.0]).double(), fov_degrees)
    intrinsics = camera.intrinsics.clone()
    intrinsics[1] *= width / height
    return Cameras(camera.c2w, intrinsics)


def hold_last_camera(cameras: Cameras, stride: int) -> Cameras:
    """The path, extended by repeats of its last camera to ``1 + n · stride`` cameras with the smallest n ≥ 1.

    With the temporal stride of a VAE, the path then fits `latent_cameras`; with a chunk's number of frames less one, it
    ends with a whole chunk.

    Args:
        cameras: [frames], at least one.
        stride: at least 1.

    Raises `InputError` for any other.
    """
    check_whole("stride", stride, 1, MOST_FRAMES)
    _check_path(cameras)
    count = len(cameras.c2w)
    missing = max(1, math.ceil((count - 1) / stride)) * stride + 1 - count
    c2w, intrinsics = (torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for x in (cameras.c2w, cameras.intrinsics))
    return Cameras(c2w, intrinsics)


def yaw_degrees(cameras: Cameras) -> list[float]:
    """Rotation to the left since the first camera, in degrees, of cameras [frames] of a world whose z axis points up.

    A turn of more than 180° goes on counting. Raises `InputError` for other cameras.
    """
    _check_path(cameras)
    forward = cameras.c2w[:, :3, 2]
    yaw = torch.atan2(forward[:, 1], forward[:, 0])
    steps = torch.remainder(yaw.diff() + math.pi, 2 * math.pi) - math.pi
    return [0.0, *torch.rad2deg(steps.cumsum(0)).tolist()]


def _check_path(cameras: Cameras) -> None:
    check_cameras(cameras, "The path", unknown_focal=True)
    if cameras.c2w.ndim != 3 or not len(cameras.c2w):
        raise InputError(f"The path has cameras {list(cameras.c2w.shape[:-2])}; give [frames], at least one.")
