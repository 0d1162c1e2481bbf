"""Camera paths for what is generated: where a picture's camera stands, and a path that lasts as long as the video."""

from __future__ import annotations

import math

import torch

from memkit.cameras import Cameras

EYE = (0.0, 0.0, 1.5)


def level_camera(height: int, width: int, fov_degrees: float) -> Cameras:
    """One camera, fields [4, 4] and [4], with a level view along +x and square pixels."""
    eye = torch.tensor(EYE, dtype=torch.float64)
    camera = Cameras.look_at(eye, eye + torch.tensor([1.0, 0.0, 0.0]).double(), fov_degrees)
    intrinsics = camera.intrinsics.clone()
    intrinsics[1] *= width / height
    return Cameras(camera.c2w, intrinsics)


def held(cameras: Cameras, stride: int) -> Cameras:
    """The path with its last camera repeated, until there are 1 + n·stride, n at least 1."""
    count = len(cameras.c2w)
    lack = max(1, math.ceil((count - 1) / stride)) * stride + 1 - count
    c2w, intrinsics = (torch.cat([x, x[-1:].expand(lack, *x.shape[1:])]) for x in (cameras.c2w, cameras.intrinsics))
    return Cameras(c2w, intrinsics)
