"""Camera poses on disk, beside the video that they belong to: ``.npz`` arrays and RealEstate10K's text format.

Files are read into and written from `memkit.Cameras` ``[frames]``: camera to world, OpenCV axes, metres, and intrinsics
over the image's width and height. No file states its axes: OpenGL poses (y up, z backward) are rigid too and cannot be
told from OpenCV's. For these, negate the second and third columns of the rotations first.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_cameras
from memkit.cameras.pose_formats import LARGEST, has_rows, parse_npz, parse_text, text_of
from memkit.checks import check_whole
from memkit.errors import InputError
from memkit.files.atomic import atomic_write

_FORMATS = (".npz", ".txt")
POSES = ".poses.npz"
"""Suffix of the poses that are written beside a video."""


def read_poses(path: str | os.PathLike[str]) -> Cameras:
    """The cameras ``[frames]`` of a pose file, one per video frame.

    - ``.npz``: ``c2w`` [F, 4, 4], and either ``intrinsics`` [F, 4] or [4], which are fx, fy, cx, cy over the image's
      width and height, or ``K`` [F, 3, 3] or [3, 3] in pixels with the numbers ``width`` and ``height``. The dtype of
      ``c2w`` is kept, fp32 at least; integers become fp64. No pickle is loaded.
    - ``.txt`` (RealEstate10K, arXiv 1805.09817): a line with a URL, then one line per frame: the time in µs, fx fy cx
      cy over the image's width and height, two distortion coefficients, which must be 0, and the 12 numbers of the
      world-to-camera matrix [3, 4], row by row. Read as fp64. The URL and the times are not kept.

    A focal length of 0 means unknown.

    Raises:
        InputError: there is no such file, it is larger than 1 GiB or its format is another one; an array is missing,
            ambiguous or of another shape or size than it states; a line is not as above; there is distortion or skew;
            ``K`` is not in pixels of an image of that width and height; or a camera is not plausible, see
            `check_cameras`.
    """
    path = Path(path)
    _check_format(path)
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise InputError(f"{path} has {size:,} bytes, and poses have {LARGEST:,} at most; give a file of poses.")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give a .npz or .txt file of poses.") from error
    cameras = parse_npz(path, data) if path.suffix == ".npz" else parse_text(path, data)
    _check(cameras, path)
    return cameras


def write_poses(path: str | os.PathLike[str], cameras: Cameras) -> None:
    """Write cameras ``[frames]``: to ``.npz`` (``c2w`` and ``intrinsics``) or to ``.txt`` (RealEstate10K).

    From ``.npz`` they are read back bit for bit (fp16 and bf16 as fp32), from ``.txt`` to about 1e-12. `Cameras` have
    no times and no URL: the text has ``about:blank`` and the frames' numbers instead. The file is written atomically.

    Raises:
        InputError: another suffix, cameras that `read_poses` would refuse, or a path that cannot be written.
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
    """The pose file with the video's name and the suffix ``.npz``, ``.poses.npz`` or ``.txt``, or None.

    Captions may lie beside videos as ``.txt`` too: a file has poses if there are many numbers in the first line after
    that of the URL, or nothing after a URL. So a damaged pose file is not taken for a caption.

    Raises:
        InputError: there are several.
    """
    found = [p for suffix in (*_FORMATS, POSES) if os.path.isfile(p := Path(video_path).with_suffix(suffix))]
    found = [p for p in found if p.suffix != ".txt" or has_rows(p)]
    if len(found) > 1:
        raise InputError(f"Both {found[0]} and {found[1]} hold poses of one video; keep one of them.")
    return found[0] if found else None


def poses_file(video_path: str | os.PathLike[str]) -> Path:
    """Where memkit's commands write the poses of a video: X.poses.npz beside X.mp4."""
    return Path(video_path).with_suffix(POSES)


def frame_cameras(cameras: Cameras, frames_per_latent: int = 4) -> Cameras:
    """The camera of each video frame, ``[..., 1 + frames_per_latent · n]``, of those of latent frames ``[..., 1 + n]``:
    all frames of a latent frame have its camera. `latent_cameras` gives back what is given here."""
    check_whole("frames_per_latent", frames_per_latent, 1)
    counts = torch.full((cameras.c2w.shape[-3],), frames_per_latent, device=cameras.c2w.device)
    counts[0] = 1
    return Cameras(cameras.c2w.repeat_interleave(counts, -3), cameras.intrinsics.repeat_interleave(counts, -2))


def latent_cameras(cameras: Cameras, frames_per_latent: int = 4) -> Cameras:
    """The camera of each latent frame, ``[..., 1 + n]`` of ``[..., 1 + frames_per_latent · n]``.

    A causal video VAE encodes the first frame alone and then ``frames_per_latent`` frames at a time, the last of which
    gives the camera: frames 0, 4, 8, … (our reading; papers do not say).

    Raises:
        InputError: the number of frames does not fit, or there are no frames.
    """
    check_whole("frames_per_latent", frames_per_latent, 1)
    frames = cameras.c2w.shape[-3] if cameras.c2w.ndim > 2 else 0
    if frames % frames_per_latent != 1 % frames_per_latent or not frames:
        raise InputError(
            f"There are {frames} cameras, not {frames_per_latent}·n + 1 as a VAE takes frames; cut or extend the clip."
        )
    return Cameras(cameras.c2w[..., ::frames_per_latent, :, :], cameras.intrinsics[..., ::frames_per_latent, :])


def _check_format(path: Path) -> None:
    if path.suffix not in _FORMATS:
        raise InputError(f"{path} does not have the suffix of a pose file; give {' or '.join(_FORMATS)}.")


def _check(cameras: Cameras, path: Path) -> None:
    c2w, intrinsics = cameras.c2w, cameras.intrinsics
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or intrinsics.shape != (len(c2w), 4) or not len(c2w):
        raise InputError(
            f"{path}: poses are [F, 4, 4] and intrinsics [F, 4] for one frame or more, not {list(c2w.shape)} and "
            f"{list(intrinsics.shape)}."
        )
    check_cameras(cameras, str(path), unknown_focal=True)
