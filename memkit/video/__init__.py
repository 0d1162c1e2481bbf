"""Video: reading, resampling and writing frames."""

from memkit.video.frames import (
    Cut,
    Pad,
    Resize,
    Video,
    first_frame,
    from_model,
    read_clip,
    read_video,
    resample,
    resize,
    to_model,
    write_video,
)
from memkit.video.reader import VideoReader
from memkit.video.writer import VideoWriter

__all__ = [
    "Cut",
    "Pad",
    "Resize",
    "Video",
    "VideoReader",
    "VideoWriter",
    "first_frame",
    "from_model",
    "read_clip",
    "read_video",
    "resample",
    "resize",
    "to_model",
    "write_video",
]
