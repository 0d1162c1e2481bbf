"""Camera poses as Echo-Memory takes them (arXiv 2606.09803), from memkit's and back.

A pose is a row of 12 numbers, the position and then the rotation row by row, relative to a reference camera. Its third
axis is up, and a positive yaw turns left: R = [c −s 0; s c 0; 0 0 1]. Which of the other two axes is forward follows
from nothing that the authors state; ``forward`` chooses it. memkit's rows (`relative_pose_vectors`) interleave rotation
and position, with OpenCV axes (x right, y down, z forward).

The authors' positions are in the unit of their data set, those of target frames times 0.01 in some rows: ``scale`` is
their unit per metre.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras.checks import check_rigid
from memkit.checks import check_finite, check_number, check_whole, is_number
from memkit.errors import FileError, InputError
from memkit.files.json_files import read_json

Forward = Literal["x", "y"]
"""Which of the two level axes is forward; then the other one points to the left ("x") or to the right ("y")."""

_AXES: dict[str, list[list[float]]] = {
    "x": [[0, 0, 1], [-1, 0, 0], [0, -1, 0]],  # rows: forward, left, up, in OpenCV's axes
    "y": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],  # right, forward, up
}


def to_echo_poses(
    poses: Float[Tensor, "*batch frames 12"], scale: float = 1.0, forward: Forward = "x"
) -> Float[Tensor, "*batch frames 12"]:
    """Rows for an `EchoMemory` from memkit's relative pose vectors.

    Raises `InputError` for other shapes, and for a scale that is not from 1e-6 to 1e6.
    """
    _check("poses", poses)
    check_number("scale", scale, 1e-6, 1e6)
    axes = _axes(forward).to(poses)
    matrix = poses.unflatten(-1, (3, 4))
    rotation, position = axes @ matrix[..., :3] @ axes.mT, scale * (axes @ matrix[..., 3:])
    return torch.cat([position.squeeze(-1), rotation.flatten(-2)], dim=-1)


def from_echo_poses(
    rows: Float[Tensor, "*batch frames 12"], scale: float = 1.0, forward: Forward = "x"
) -> Float[Tensor, "*batch frames 4 4"]:
    """Camera-to-world matrices, with OpenCV axes, in a world whose origin is the reference camera.

    Raises `InputError` for other shapes, rotations that are none, and a scale that is not from 1e-6 to 1e6.
    """
    _check("rows", rows)
    check_number("scale", scale, 1e-6, 1e6)
    axes = _axes(forward).to(rows)
    c2w = torch.eye(4).to(rows).repeat(*rows.shape[:-1], 1, 1)
    c2w[..., :3, :3] = axes.mT @ rows[..., 3:].unflatten(-1, (3, 3)) @ axes
    c2w[..., :3, 3] = (axes.mT @ rows[..., :3, None]).squeeze(-1) / scale
    check_rigid(c2w, "The poses")
    return c2w


def echo_yaw(degrees: float, frames: int) -> Float[Tensor, "frames 12"]:
    """Rows of a camera that turns on the spot by ``degrees`` to the left, evenly over the frames, from 0 to the end.

    Raises `InputError` for a turn of more than 3600 degrees, and for less than two frames.
    """
    check_number("degrees", degrees, -3600, 3600)
    check_whole("frames", frames, 2)
    angle = torch.linspace(0, math.radians(degrees), frames, dtype=torch.float64)
    rows = torch.zeros(frames, 12, dtype=torch.float64)
    rows[:, 3] = rows[:, 7] = angle.cos()
    rows[:, 4], rows[:, 6], rows[:, 11] = -angle.sin(), angle.sin(), 1.0
    return rows.float()


def read_echo_poses(path: str | os.PathLike[str]) -> Float[Tensor, "frames 12"]:
    """The rows of one of the authors' files: JSON of "0", "1", …, each with 12 numbers, perhaps under "actions".

    Every fourth row belongs to a latent frame: ``rows[::4]``.

    Raises `FileError` where there is no such file, or it holds anything else.
    """
    remedy = 'give a JSON object of "0", "1", …, each with 12 numbers'
    content: Any = read_json(Path(path), remedy)
    content = content.get("actions", content)
    rows = [content.get(str(i)) for i in range(len(content))] if isinstance(content, dict) else []
    good = [isinstance(row, list) and len(row) == 12 and all(map(is_number, row)) for row in rows]
    if not rows or not all(good):
        missing = good.index(False) if rows else 0
        raise FileError(f"{path} has no pose {missing} of 12 numbers; {remedy}.")
    return torch.tensor(rows, dtype=torch.float64).float()


def _check(name: str, rows: Tensor) -> None:
    check_finite(name, rows)
    if rows.ndim < 2 or rows.shape[-1] != 12:
        raise InputError(f"{name} has shape {list(rows.shape)}; give [..., frames, 12].")


def _axes(forward: str) -> Tensor:
    if forward not in _AXES:
        raise InputError(f"forward is {forward!r}; choose x or y.")
    return torch.tensor(_AXES[forward])
