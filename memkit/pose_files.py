"""Camera poses on disk, beside the video they belong to: ``.npz`` arrays and RealEstate10K's text.

What is read and written are `memkit.Cameras` ``[frames]``: camera to world, OpenCV axes, metres, and intrinsics over
the image's sides. No file says which axes it means: OpenGL poses (y up, z backward) are rigid motions too and cannot be
told from OpenCV's. Negate the second and third columns of their rotations first.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import InputError

ROTATION_TOLERANCE = 1e-3
"""How far any element of R Rᵀ may be from the identity: poses kept in fp16 pass."""

_NUMBERS = 19  # of a line of RealEstate10K: time, 4 intrinsics, 2 of distortion, 12 of the pose
_PIXELS = 50  # a focal length of 50 widths is a view of 1.1°: more likely these are pixels
_FORMATS = (".npz", ".txt")
_DAMAGED = (OSError, ValueError, EOFError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_poses(path: str | os.PathLike[str]) -> Cameras:
    """The cameras ``[frames]`` of a pose file, one for each video frame.

    - ``.npz``: ``c2w`` [F, 4, 4], and either ``intrinsics`` [F, 4] or [4], which are fx, fy, cx, cy over the image's
      sides, or ``K`` [F, 3, 3] or [3, 3] in pixels with the numbers ``width`` and ``height``. The dtype of ``c2w`` is
      kept, fp32 at least; whole numbers become fp64. Nothing pickled is loaded.
    - ``.txt`` (RealEstate10K, arXiv 1805.09817): a line with a URL, then for each frame the time in µs, fx fy cx cy
      over the image's sides, two coefficients of distortion, which must be 0, and the 12 numbers of the world-to-camera
      matrix [3, 4], row by row. fp64. The URL and the times are not kept.

    A focal length of 0 stands for an unknown one.

    Raises:
        InputError: no such file or another format; a missing, ambiguous or misshapen array; a line that is not as
            above; distortion or skew; a value that is not finite; a pose whose rotation is not orthonormal to
            ``ROTATION_TOLERANCE`` with determinant +1; focal lengths below 0, or above 50, which are pixels.
    """
    path = Path(path)
    _check_format(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give a .npz or .txt file of poses.") from error
    cameras = _parse_npz(path, data) if path.suffix == ".npz" else _parse_text(path, data)
    _check(cameras, path)
    return cameras


def write_poses(path: str | os.PathLike[str], cameras: Cameras) -> None:
    """Write cameras ``[frames]`` as the suffix says: ``.npz`` (``c2w`` and ``intrinsics``) or ``.txt`` (RealEstate10K).

    From ``.npz`` they are read back bit for bit (fp16 and bf16 as fp32), from ``.txt`` to about 1e-12. `Cameras` have
    no clock and no origin: the text says ``about:blank`` for the URL and numbers the frames for their times. The file
    appears whole or not at all.

    Raises:
        InputError: another suffix, cameras that `read_poses` would refuse, or a place that cannot be written to.
    """
    path = Path(path)
    _check_format(path)
    dtype = torch.promote_types(torch.promote_types(cameras.c2w.dtype, cameras.intrinsics.dtype), torch.float32)
    cameras = Cameras(cameras.c2w.detach().to("cpu", dtype), cameras.intrinsics.detach().to("cpu", dtype))
    _check(cameras, path)
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, c2w=cameras.c2w.numpy(), intrinsics=cameras.intrinsics.numpy())
        data = buffer.getvalue()
    else:
        data = _text_of(cameras).encode()
    part = path.with_name(f".{path.name}.partial")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(f"{path} cannot be written ({error}); give a file in a folder that can be.") from error


def poses_beside(video_path: str | os.PathLike[str]) -> Path | None:
    """The pose file with the video's name and the suffix ``.npz`` or ``.txt``, or None.

    Captions too lie beside videos as ``.txt``: one whose second line does not begin with a number holds no poses.

    Raises:
        InputError: both formats are there.
    """
    found = [p for suffix in _FORMATS if (p := Path(video_path).with_suffix(suffix)).is_file()]
    found = [p for p in found if p.suffix != ".txt" or _has_rows(p)]
    if len(found) > 1:
        raise InputError(f"Both {found[0]} and {found[1]} hold poses of one video; keep one of them.")
    return found[0] if found else None


def latent_cameras(cameras: Cameras, frames_per_latent: int = 4) -> Cameras:
    """The camera of each latent frame, ``[..., 1 + n]`` of ``[..., 1 + frames_per_latent · n]``.

    A causal video VAE makes the first latent frame of the first frame and each further one of the next
    ``frames_per_latent``, the last of which gives the camera: frames 0, 4, 8, … (our reading; papers do not say).

    Raises:
        InputError: another number of frames, or cameras without frames.
    """
    if frames_per_latent < 1:
        raise InputError(f"{frames_per_latent} frames cannot make a latent frame; give 1 or more.")
    frames = cameras.c2w.shape[-3] if cameras.c2w.ndim > 2 else 0
    if frames % frames_per_latent != 1 % frames_per_latent or not frames:
        raise InputError(
            f"{frames} cameras are not {frames_per_latent}·n + 1, one for each frame that a VAE takes; cut or extend "
            "the clip."
        )
    return Cameras(cameras.c2w[..., ::frames_per_latent, :, :], cameras.intrinsics[..., ::frames_per_latent, :])


def check_rigid(c2w: Float[Tensor, "*batch 4 4"], name: str) -> None:
    """Raises `InputError` unless every pose is a finite rotation and translation; ``name`` begins the message."""
    poses = c2w.double().reshape(-1, 4, 4)
    turn, last = poses[:, :3, :3], torch.tensor([0.0, 0.0, 0.0, 1.0]).to(poses)
    off = (turn @ turn.mT - torch.eye(3).to(turn)).abs().amax(dim=(1, 2))
    good = poses.isfinite().all(dim=(1, 2)) & (off <= ROTATION_TOLERANCE) & (torch.linalg.det(turn) > 0)
    good &= (poses[:, 3] == last).all(dim=1)
    if not bool(good.all()):
        raise InputError(
            f"{name}: pose {int((~good).nonzero()[0])} is no rigid motion; give finite matrices whose rotations are "
            f"orthonormal (to {ROTATION_TOLERANCE}) with determinant +1, the last row 0 0 0 1."
        )


def _check_format(path: Path) -> None:
    if path.suffix not in _FORMATS:
        raise InputError(f"{path} is no pose file by its name; poses are {' or '.join(_FORMATS)}.")


def _check(cameras: Cameras, path: Path) -> None:
    c2w, lens = cameras.c2w, cameras.intrinsics
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or lens.shape != (len(c2w), 4) or not len(c2w):
        raise InputError(
            f"{path}: poses are [F, 4, 4] and intrinsics [F, 4] for one frame or more, not {list(c2w.shape)} and "
            f"{list(lens.shape)}."
        )
    check_rigid(c2w, str(path))
    good = lens.isfinite().all(dim=1) & (lens[:, :2] >= 0).all(dim=1) & (lens[:, :2] <= _PIXELS).all(dim=1)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise InputError(
            f"{path}: the intrinsics of frame {row}, {lens[row].tolist()}, are not fx, fy, cx, cy over the image's "
            f"width and height (finite, focal lengths of 0 to {_PIXELS}); those in pixels go into an .npz as K, with "
            "width and height."
        )


# -- npz ---------------------------------------------------------------------------------------------------------------


def _parse_npz(path: Path, data: bytes) -> Cameras:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _DAMAGED as error:
        raise InputError(f"{path} is no .npz of plain arrays ({error}); write it anew, without objects.") from error
    if "c2w" not in arrays or ("intrinsics" in arrays) == ("K" in arrays):
        raise InputError(
            f"{path} holds {sorted(arrays)}; it needs c2w and either intrinsics or K (with width and height)."
        )
    c2w = _tensor(path, arrays, "c2w")
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
        raise InputError(f"{path}: c2w is {list(c2w.shape)}; give camera-to-world matrices [F, 4, 4].")
    lens = _tensor(path, arrays, "intrinsics") if "intrinsics" in arrays else _normalised(path, arrays)
    if lens.shape not in ((4,), (len(c2w), 4)):
        raise InputError(
            f"{path}: intrinsics for {len(c2w)} poses are [{len(c2w)}, …] or those of one camera, not "
            f"{list(lens.shape)} of fx, fy, cx, cy."
        )
    return Cameras(c2w, lens.to(c2w.dtype).expand(len(c2w), 4).contiguous())


def _tensor(path: Path, arrays: dict[str, Any], name: str) -> Tensor:
    array = arrays[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} holds {getattr(array, 'dtype', 'no array')}; give real numbers.")
    return torch.from_numpy(array.astype(np.float32 if array.dtype in (np.float16, np.float32) else np.float64))


def _normalised(path: Path, arrays: dict[str, Any]) -> Tensor:
    """[..., 4] from K [..., 3, 3] in pixels."""
    if not {"width", "height"} <= arrays.keys():
        raise InputError(f"{path} holds K in pixels; it needs the numbers width and height too.")
    sides = [_tensor(path, arrays, name) for name in ("width", "height")]
    if any(side.numel() != 1 or not 0 < float(side) < math.inf for side in sides):
        raise InputError(f"{path}: width and height are {[side.tolist() for side in sides]}; give one number each.")
    k = _tensor(path, arrays, "K").double()
    if k.ndim not in (2, 3) or k.shape[-2:] != (3, 3):
        raise InputError(f"{path}: K is {list(k.shape)}; give [3, 3] or [F, 3, 3].")
    rest = torch.stack([k[..., 0, 1], k[..., 1, 0], k[..., 2, 0], k[..., 2, 1], k[..., 2, 2] - 1], dim=-1)
    if bool((rest != 0).any()):
        raise InputError(f"{path}: K has skew or is no [fx 0 cx; 0 fy cy; 0 0 1]; undistort the images first.")
    width, height = (side.double().squeeze() for side in sides)
    fx, fy, cx, cy = k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]
    return torch.stack([fx / width, fy / height, cx / width, cy / height], dim=-1)


# -- RealEstate10K -----------------------------------------------------------------------------------------------------


def _parse_text(path: Path, data: bytes) -> Cameras:
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}); give poses as RealEstate10K has them.") from error
    if lines and len(lines[0].split()) == _NUMBERS:
        raise InputError(f"{path}: line 1 is a pose; put the video's URL, or any word, on a line before it.")
    rows = [_row(path, number, line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if not rows:
        raise InputError(f"{path} holds no pose; give a URL on line 1, then {_NUMBERS} numbers a line for each frame.")
    table = torch.tensor(rows, dtype=torch.float64)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(table), 1, 1)
    c2w[:, :3] = table[:, 7:].view(-1, 3, 4)
    check_rigid(c2w, f"{path} (world to camera)")  # before the inversion, which may fail or hide what is wrong
    return Cameras(torch.linalg.inv(c2w), table[:, 1:5].contiguous())


def _row(path: Path, number: int, line: str) -> list[float]:
    words = line.split()
    try:
        row = [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}; a line has {_NUMBERS} numbers.") from error
    if len(row) != _NUMBERS:
        raise InputError(f"{path}, line {number} has {len(row)} numbers, not {_NUMBERS} (time, intrinsics, pose).")
    if row[5] != 0 or row[6] != 0:
        raise InputError(
            f"{path}, line {number}: the distortion is {words[5]} {words[6]}, not 0 0; undistort the images first."
        )
    return row


def _text_of(cameras: Cameras) -> str:
    w2c = torch.linalg.inv(cameras.c2w.double())[:, :3].flatten(1)
    lines = ["about:blank"]
    for number, (lens, pose) in enumerate(zip(cameras.intrinsics.double().tolist(), w2c.tolist(), strict=True)):
        lines.append(" ".join([str(number), *map(repr, lens), "0", "0", *map(repr, pose)]))
    return "\n".join(lines) + "\n"


def _has_rows(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            words = [line.split() for line in (file.readline(), file.readline())][1]
        float(words[0])
    except (OSError, UnicodeDecodeError, ValueError, IndexError):
        return False
    return True
