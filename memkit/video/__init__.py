"""Video: reading, resampling and writing frames."""

from memkit.video.frames import (
    Cut,
    Pad,
    Resize,
    TimedFrames,
    Video,
    first_frame,
    read_clip,
    read_frames,
    read_video,
    resample,
    resize,
    write_video,
)
from memkit.video.pixels import batch_from_model, from_model, to_model, to_uint8
from memkit.video.reader import VideoReader
from memkit.video.writer import VideoWriter

__all__ = [
    "Cut",
    "Pad",
    "Resize",
    "TimedFrames",
    "Video",
    "VideoReader",
    "VideoWriter",
    "batch_from_model",
    "first_frame",
    "from_model",
    "read_clip",
    "read_frames",
    "read_video",
    "resample",
    "resize",
    "to_model",
    "to_uint8",
    "write_video",
]
