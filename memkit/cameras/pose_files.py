"""Camera poses on disk, beside the video they belong to: ``.npz`` arrays and RealEstate10K's text.

What is read and written are `memkit.Cameras` ``[frames]``: camera to world, OpenCV axes, metres, and intrinsics over
the image's sides. No file says which axes it means: OpenGL poses (y up, z backward) are rigid motions too and cannot be
told from OpenCV's. Negate the second and third columns of their rotations first.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch

from memkit.cameras.cameras import Cameras
from memkit.cameras.pose_formats import has_rows, parse_npz, parse_text, text_of
from memkit.cameras.rigid import check_rigid
from memkit.errors import InputError
from memkit.files import atomic_write

_PIXELS = 50  # a focal length of 50 widths is a view of 1.1°: more likely these are pixels
_FORMATS = (".npz", ".txt")


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
    cameras = parse_npz(path, data) if path.suffix == ".npz" else parse_text(path, data)
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
        data = text_of(cameras).encode()
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); give a file in a folder that can be.") from error


def poses_beside(video_path: str | os.PathLike[str]) -> Path | None:
    """The pose file with the video's name and the suffix ``.npz`` or ``.txt``, or None.

    Captions too lie beside videos as ``.txt``: one whose second line does not begin with a number holds no poses.

    Raises:
        InputError: both formats are there.
    """
    found = [p for suffix in _FORMATS if (p := Path(video_path).with_suffix(suffix)).is_file()]
    found = [p for p in found if p.suffix != ".txt" or has_rows(p)]
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


def _check_format(path: Path) -> None:
    if path.suffix not in _FORMATS:
        raise InputError(f"{path} is no pose file by its name; poses are {' or '.join(_FORMATS)}.")


def _check(cameras: Cameras, path: Path) -> None:
    c2w, intrinsics = cameras.c2w, cameras.intrinsics
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or intrinsics.shape != (len(c2w), 4) or not len(c2w):
        raise InputError(
            f"{path}: poses are [F, 4, 4] and intrinsics [F, 4] for one frame or more, not {list(c2w.shape)} and "
            f"{list(intrinsics.shape)}."
        )
    check_rigid(c2w, str(path))
    good = (
        intrinsics.isfinite().all(dim=1)
        & (intrinsics[:, :2] >= 0).all(dim=1)
        & (intrinsics[:, :2] <= _PIXELS).all(dim=1)
    )
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise InputError(
            f"{path}: the intrinsics of frame {row}, {intrinsics[row].tolist()}, are not fx, fy, cx, cy over the "
            f"image's width and height (finite, focal lengths of 0 to {_PIXELS}); those in pixels go into an .npz as "
            "K, with width and height."
        )
