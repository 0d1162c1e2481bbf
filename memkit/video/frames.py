"""Video files to frames and back, at a stated rate and size.

Frames are uint8 RGB ``[T, H, W, 3]``; models take ``[1, 3, T, H, W]`` in [-1, 1].

The DiT-Mem release resamples every clip, however long, to 81 frames and stretches it to 832×480: clips of two and of
twenty seconds then move alike, and a ball becomes an ellipse. For a physics prior speed is the signal, so here a clip
keeps its own speed (frame k of the result shows second k / fps of the clip) and, by default, its own aspect ratio;
named rules cut or pad the rest. ``resize(..., rule="stretch")`` is the release's; its change of speed is not offered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import av
import torch
from av.error import FFmpegError
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from memkit.checks import MOST_FRAMES, check_choice, check_finite, check_room, check_whole
from memkit.display import with_shapes
from memkit.errors import InputError, MediaError
from memkit.files.atomic import atomic_write
from memkit.video.checks import MOST_SIDE, check_frames, check_rate
from memkit.video.player import video_html
from memkit.video.reader import VideoReader
from memkit.video.writer import same_bytes

Cut = Literal["start", "center"]
Pad = Literal["hold", "loop", "error"]
Resize = Literal["crop", "fit", "stretch"]
_SAME_TIME = 1e-6  # seconds; times closer than this are equal


class Video(NamedTuple):
    """Frames and their rate in frames per second."""

    frames: UInt8[Tensor, "time height width 3"]
    fps: float

    __repr__ = with_shapes

    def _repr_html_(self) -> str:
        return video_html(self.frames, self.fps, write_video)


class TimedFrames(NamedTuple):
    """Frames and the time of each in seconds, ascending."""

    frames: UInt8[Tensor, "time height width 3"]
    times: Float64[Tensor, " time"]

    __repr__ = with_shapes


def read_video(path: str | os.PathLike[str]) -> Video:
    """All frames of a file, as players show them, and their mean rate by timestamps.

    Frames of a variable rate are not evenly spaced in time: use `read_frames` or `read_clip` for these, and
    `read_clip` for long files.

    Raises:
        MediaError: the file cannot be decoded, is damaged or truncated, has no frame, or has more of them than memory
            holds; the message names it.
    """
    with VideoReader(path) as reader:
        times, frames = reader.all_frames()
        return Video(torch.stack(frames), 1 / _interval(times, reader.rate))


def read_frames(path: str | os.PathLike[str]) -> TimedFrames:
    """All frames of a file, as `read_video` gives them, each with its own time, at a constant or variable rate."""
    with VideoReader(path) as reader:
        times, frames = reader.all_frames()
        return TimedFrames(torch.stack(frames), torch.tensor(times, dtype=torch.float64))


def read_clip(
    path: str | os.PathLike[str], fps: float, num_frames: int, cut: Cut = "start", pad: Pad = "hold"
) -> UInt8[Tensor, "{num_frames} height width 3"]:
    """``resample`` of a file, by its timestamps; only the requested frames are held in memory.

    Decoding stops at the last frame needed; what follows is not checked for damage. ``cut="center"`` decodes the file
    to its end first, as only that gives the times of all frames.
    """
    _check(fps, num_frames, cut, pad)
    with VideoReader(path) as reader:
        times = reader.times() if cut == "center" else None
        start = _start(times, reader.rate, fps, num_frames, cut)
        picked, last = _pick(reader.frames(), start, reader.rate, fps, num_frames)
        return torch.stack(_padded(picked, last, num_frames, pad, str(path)))


def first_frame(path: str | os.PathLike[str], height: int, width: int) -> UInt8[Tensor, "1 {height} {width} 3"]:
    """An image, or the first frame of a video, scaled and cropped; no further frame is kept."""
    return resize(read_clip(path, 1.0, 1), height, width)


def resample(
    frames: UInt8[Tensor, "time height width 3"],
    source: float | Float[Tensor, " time"],
    fps: float,
    num_frames: int,
    cut: Cut = "start",
    pad: Pad = "hold",
) -> UInt8[Tensor, "{num_frames} height width 3"]:
    """``num_frames`` frames at ``fps``, at the clip's own speed: for each k the frame nearest to k / fps seconds.

    ``source`` is the rate of ``frames``, or their times in seconds, ascending. A longer clip is cut: ``"start"`` keeps
    its start, ``"center"`` its middle. A shorter one is padded: ``"hold"`` repeats its last frame, ``"loop"`` starts
    again, ``"error"`` raises `InputError`. Of two equally near frames the earlier is taken.
    """
    check_frames("frames", frames)
    _check(fps, num_frames, cut, pad)
    if isinstance(source, Tensor):
        check_finite("The times of the frames", source, "[frames]")
        if len(source) != len(frames):
            raise InputError(f"There are {len(source)} times of {len(frames)} frames; give one time per frame.")
    else:
        check_rate("The rate of the frames", source)
    times = source.tolist() if isinstance(source, Tensor) else [i / source for i in range(len(frames))]
    if any(b < a for a, b in pairwise(times)) or (len(times) > 1 and times[0] == times[-1]):
        raise InputError("The times of the frames must ascend; sort the frames by time, and give each its own.")
    rate = None if isinstance(source, Tensor) else source
    start = _start(times, rate, fps, num_frames, cut)
    picked, last = _pick(zip(times, frames, strict=True), start, rate, fps, num_frames)
    return torch.stack(_padded(picked, last, num_frames, pad, "The clip"))


def frames_at(count: int, fps: float, times: Float64[Tensor, " frames"]) -> Int[Tensor, " {count}"]:
    """Indices of the frames nearest in time to 0 / fps, 1 / fps, …, (count - 1) / fps seconds after the first frame.

    ``times`` are those of the frames in seconds, ascending. Of two equally near frames the earlier is taken.
    """
    wanted = torch.arange(count, dtype=torch.float64) / fps
    times = times - times[0]
    after = torch.searchsorted(times, wanted).clamp(max=len(times) - 1)
    before = (after - 1).clamp(min=0)
    earlier = wanted - times[before] <= times[after] - wanted + _SAME_TIME
    return torch.where(earlier, before, after)


def write_video(path: str | os.PathLike[str], frames: UInt8[Tensor, "time height width 3"], fps: float) -> None:
    """Write an mp4 (h264, yuv420p, which all players support). The file is written atomically.

    The codec needs even sizes: an odd height or width is extended by a repeated row or column; pixels are never
    resampled.
    """
    check_frames(f"{path}: frames", frames)
    check_rate(f"{path}: fps", fps)
    even = torch.cat([frames, frames[:, -1:]], dim=1) if frames.shape[1] % 2 else frames
    even = torch.cat([even, even[:, :, -1:]], dim=2) if even.shape[2] % 2 else even
    try:
        with atomic_write(path) as partial, av.open(str(partial), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
            stream.width, stream.height, stream.pix_fmt = even.shape[2], even.shape[1], "yuv420p"
            stream.options = {"crf": "12", **same_bytes()}
            for frame in even.cpu().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    except (OSError, FFmpegError) as error:
        raise MediaError(
            f"{path} cannot be written: {error}; check that its folder exists and has space left."
        ) from error


def resize(
    frames: UInt8[Tensor, "time oldheight oldwidth 3"], height: int, width: int, rule: Resize = "crop"
) -> UInt8[Tensor, "time {height} {width} 3"]:
    """Frames resized with antialiasing.

    ``"crop"`` scales to cover and keeps the middle; ``"fit"`` scales to fit inside and adds black bars; ``"stretch"``
    changes the aspect ratio.
    """
    check_choice("resize", rule, get_args(Resize))
    check_frames("frames", frames)
    check_whole("height", height, 1, MOST_SIDE, "pixels")
    check_whole("width", width, 1, MOST_SIDE, "pixels")
    check_room(f"Frames of {height}×{width}", len(frames) * height * width * 3)
    if (height, width) == tuple(frames.shape[1:3]):
        return frames
    scales = height / frames.shape[1], width / frames.shape[2]
    if rule == "stretch":
        size = (height, width)
    else:
        scale = max(scales) if rule == "crop" else min(scales)
        size = (max(1, round(frames.shape[1] * scale)), max(1, round(frames.shape[2] * scale)))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    result = frames.new_zeros(len(frames), height, width, 3)
    inside = result[:, max(0, -top) : max(0, -top) + size[0], max(0, -left) : max(0, -left) + size[1]]
    for i, frame in enumerate(frames):  # one at a time: a long clip in float would need too much memory
        image = frame.permute(2, 0, 1)[None].float()
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True).round().clamp(0, 255)
        inside[i] = image[0, :, max(0, top) :, max(0, left) :][:, :height, :width].permute(1, 2, 0).byte()
    return result


def _check(fps: float, num_frames: int, cut: str, pad: str) -> None:
    """Raise `InputError` unless these say which frames of a clip to take, and how many."""
    check_rate("fps", fps)
    check_whole("num_frames", num_frames, 1, MOST_FRAMES)
    check_choice("cut", cut, get_args(Cut))
    check_choice("pad", pad, get_args(Pad))


def _interval(times: Sequence[float], rate: float | None) -> float:
    """Mean seconds between frames; for a single frame from the stated rate, or one second."""
    if len(times) > 1 and times[-1] > times[0]:
        return (times[-1] - times[0]) / (len(times) - 1)
    return 1 / rate if rate else 1.0


def _start(times: Sequence[float] | None, rate: float | None, fps: float, num_frames: int, cut: Cut) -> float | None:
    """Time of the first requested frame, one of ``times``; None for the first of the file."""
    if cut == "start" or not times:
        return None
    spare = times[-1] - times[0] + _interval(times, rate) - num_frames / fps
    return max((t for t in times if t <= times[0] + spare / 2 + _SAME_TIME), default=None)


def _pick(
    frames: Iterable[tuple[float, Tensor]], start: float | None, rate: float | None, fps: float, num_frames: int
) -> tuple[list[Tensor], Tensor]:
    """The frames nearest to ``start + k / fps``, for those of the first ``num_frames`` k within the clip, and the last
    frame read."""
    picked: list[Tensor] = []
    times: list[float] = []
    before: tuple[float, Tensor] | None = None
    for time, frame in frames:
        times.append(time)
        start = time if start is None else start
        while before is not None and len(picked) < num_frames and (target := start + len(picked) / fps) < time:
            nearer = time - target < target - before[0] - _SAME_TIME
            picked.append(frame if nearer else before[1])
        if len(picked) == num_frames:
            return picked, frame
        before = time, frame
    assert before is not None and start is not None, "callers give at least one frame"
    end = times[-1] + _interval(times, rate)
    while len(picked) < num_frames and (not picked or start + len(picked) / fps < end - _SAME_TIME):
        picked.append(before[1])
    return picked, before[1]


def _padded(picked: list[Tensor], last: Tensor, num_frames: int, pad: Pad, name: str) -> list[Tensor]:
    missing = num_frames - len(picked)
    if missing and pad == "error":
        raise InputError(f"{name} has {len(picked)} frames, not {num_frames}; ask for fewer, or pad with hold or loop.")
    if pad == "loop":
        return [picked[i % len(picked)] for i in range(num_frames)]
    return picked + [last] * missing
