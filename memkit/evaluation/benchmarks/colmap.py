"""Poses of COLMAP's ``images.txt``."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from memkit.cameras.checks import check_rigid
from memkit.errors import InputError
from memkit.files.atomic import reading

_WORDS = 10  # IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; the line of points has a multiple of 3 numbers


def read_colmap(file: Path) -> Float64[Tensor, "frames 4 4"]:
    """The camera-to-world matrices of ``images.txt``, by the id of the image; axes are OpenCV's.

    The file has world-to-camera rotations as quaternions, w first, and translations.

    Raises:
        InputError: the file cannot be read, has no image, or a line is not of this form; the line is named.
    """
    with reading(file, "download it again"):
        lines = file.read_text(encoding="utf-8").splitlines()
    found: dict[int, list[float]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if line.startswith("#") or len(words) != _WORDS:
            continue
        try:
            id, values = int(words[0]), [float(word) for word in words[1:8]]
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {error}; download it again.") from error
        if id in found:
            raise InputError(f"{file}, line {number}: image {id} is there twice; download it again.")
        found[id] = values
    if not found:
        raise InputError(f"{file} has no image; give COLMAP's images.txt.")
    table = torch.tensor([found[id] for id in sorted(found)], dtype=torch.float64)
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(table), 1, 1)
    w2c[:, :3, :3], w2c[:, :3, 3] = _rotations(table[:, :4]), table[:, 4:]
    check_rigid(w2c, f"{file} (world to camera)")
    return torch.linalg.inv(w2c)


def _rotations(quaternions: Float64[Tensor, "frames 4"]) -> Float64[Tensor, "frames 3 3"]:
    """Rotations of quaternions, w first, of any length other than 0."""
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
