"""Video files at a model's rate and size, with the poses that lie beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from memkit.banks.build import Format
from memkit.cameras import Cameras, poses_beside, read_poses
from memkit.errors import InputError
from memkit.video import read_clip, read_video, resize


def posed_clip(file: Path, form: Format) -> tuple[UInt8[Tensor, "frames height width 3"], Cameras | None]:
    """The first ``form.num_frames`` frames of a video at the model's rate, and their cameras if it has poses.

    Raises `InputError` or `MediaError` naming the file: shorter than that, not to be decoded, or poses that are not one
    a frame.
    """
    poses = poses_beside(file)
    if poses is None:
        frames = read_clip(file, form.fps, form.num_frames, pad="error")
        return resize(frames, form.height, form.width), None
    video, cameras = read_video(file), read_poses(poses)
    check_count(poses, cameras, file, len(video.frames))
    length = (len(video.frames) - 1) / video.fps * form.fps
    if form.num_frames - 1 > length + 1e-6:
        raise InputError(f"{file} has {length + 1:.0f} frames at {form.fps} a second, a clip {form.num_frames}.")
    index = frames_at(form.num_frames, form.fps, video.fps, len(video.frames))
    intrinsics = cropped(cameras.intrinsics[index], video.frames.shape[1:3], (form.height, form.width))
    return resize(video.frames[index], form.height, form.width), Cameras(cameras.c2w[index], intrinsics)


def check_count(poses: Path, cameras: Cameras, file: Path, frames: int) -> None:
    """Raises `InputError` unless there is one pose a frame."""
    if len(cameras.c2w) != frames:
        raise InputError(f"{poses} has {len(cameras.c2w)} poses, {file} {frames} frames; give one a frame.")


def frames_at(count: int, fps: float, source_fps: float, frames: int) -> Int[Tensor, " {count}"]:
    """For each k below ``count`` the frame nearest in time to k / fps, of as many as there are."""
    return (torch.arange(count) / fps * source_fps).round().long().clamp(max=frames - 1)


def cropped(intrinsics: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Intrinsics [..., 4] over the sides of an image (height, width) that was scaled and cropped to another shape."""
    scale = max(after[0] / before[0], after[1] / before[1])
    fx, fy, cx, cy = intrinsics.unbind(-1)
    wide, high = before[1] * scale / after[1], before[0] * scale / after[0]
    return torch.stack([fx * wide, fy * high, 0.5 + (cx - 0.5) * wide, 0.5 + (cy - 0.5) * high], dim=-1)
