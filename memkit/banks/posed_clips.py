"""Clips of video files at a model's frame rate and size, with the cameras of the pose files beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.banks.build import Format
from memkit.cameras.cameras import Cameras
from memkit.cameras.pose_files import poses_beside, read_poses
from memkit.errors import InputError
from memkit.video.frames import frames_at, read_clip, read_frames, resize


def posed_clip(file: Path, form: Format) -> tuple[UInt8[Tensor, "frames height width 3"], Cameras | None]:
    """The first ``form.num_frames`` frames of a video at the frame rate of ``form``, and the camera of each.

    Frames are scaled to cover the size of ``form`` and cropped; the intrinsics follow. Of a video with poses, each
    frame is the one nearest in time, so that it keeps its own pose.

    Args:
        file: the video. Its poses are in a ``.npz`` or ``.txt`` file of the same name, see `poses_beside`.
        form: frame rate and size of the clip, such as the ``video_format`` of a backbone.

    Returns:
        The frames, and the cameras [frames], or None if there is no pose file.

    Raises:
        InputError: the video is too short, or the pose file does not have one pose per frame of the video.
        MediaError: the video cannot be decoded.
    """
    poses = poses_beside(file)
    if poses is None:
        frames = read_clip(file, form.fps, form.num_frames, pad="error")
        return resize(frames, form.height, form.width), None
    return next(posed_chunks(file, form, poses))


def posed_chunks(
    file: Path, form: Format, poses: Path | None
) -> Iterator[tuple[UInt8[Tensor, "frames height width 3"], Cameras | None]]:
    """The whole chunks of a video, of ``form.num_frames`` frames; each begins with the last frame of the one before.

    Each frame is the one nearest in time. ``poses`` is the video's pose file, None if its cameras are unknown.

    Raises:
        InputError: the video is shorter than a chunk, or the pose file does not have one pose per frame of the video.
        MediaError: the video cannot be decoded.
    """
    video, cameras = read_frames(file), None if poses is None else read_poses(poses)
    if poses is not None and cameras is not None:
        check_count(poses, cameras, file, len(video.frames))
    stride, length = form.num_frames - 1, (video.times[-1] - video.times[0]).item() * form.fps
    count = int(length + 1e-6) // max(1, stride)
    if stride > length + 1e-6:
        raise InputError(
            f"{file} has {length + 1:.0f} frames at {form.fps} frames per second, a clip needs {form.num_frames}; "
            "give a longer video."
        )
    index = frames_at(count * stride + 1, form.fps, video.times)
    for start in range(0, max(1, count * stride), max(1, stride)):
        at, size = index[start : start + stride + 1], (form.height, form.width)
        frames = resize(video.frames[at], *size)
        if cameras is None:
            yield frames, None
        else:
            intrinsics = cropped(cameras.intrinsics[at], video.frames.shape[1:3], size)
            yield frames, Cameras(cameras.c2w[at], intrinsics)


def check_count(poses: Path, cameras: Cameras, file: Path, frames: int) -> None:
    """Raise `InputError` unless the pose file ``poses`` has one camera for each of the ``frames`` of a video."""
    if len(cameras.c2w) != frames:
        raise InputError(f"{poses} has {len(cameras.c2w)} poses, {file} {frames} frames; give one pose per frame.")


def cropped(intrinsics: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Intrinsics [..., 4] of an image that `memkit.video.resize` scaled to cover another shape and cropped.

    Args:
        intrinsics: [..., 4], fx, fy, cx, cy over the width and height of the original image.
        before: height and width of the original image.
        after: height and width of the cropped image, over which the result is given.
    """
    scale = max(after[0] / before[0], after[1] / before[1])
    fx, fy, cx, cy = intrinsics.unbind(-1)
    wide, high = before[1] * scale / after[1], before[0] * scale / after[0]
    return torch.stack([fx * wide, fy * high, 0.5 + (cx - 0.5) * wide, 0.5 + (cy - 0.5) * high], dim=-1)
