"""`VideoReader`: frames of a file with their times; a damaged or truncated file is never taken for a short clip."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import torch
from av.error import FFmpegError
from av.video.stream import VideoStream
from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import MediaError


class VideoReader:
    """A file open for decoding; every error names the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> VideoReader:
        try:
            self._container = av.open(str(self.path), "r")
        except (OSError, FFmpegError) as error:
            raise MediaError(f"{self.path} cannot be opened as a video ({error}); replace the file.") from error
        if not self._container.streams.video:
            self._container.close()
            raise MediaError(f"{self.path} has no video stream; check or replace the file.")
        self._stream: VideoStream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate else None
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def times(self) -> list[float]:
        """Times of all frames, from the file's index without decoding; the file is rewound afterwards."""
        try:
            packets: Iterable[Any] = self._container.demux(self._stream)
            stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
            self._container.seek(0)
            self._check_whole()
        except FFmpegError as error:
            raise MediaError(f"{self.path} cannot be read to its end ({error}); check or replace the file.") from error
        base = float(self._stream.time_base or 1)
        return [stamp * base for stamp in stamps]

    def frames(self) -> Iterator[tuple[float, UInt8[Tensor, "height width 3"]]]:
        """Each frame, upright, with its time in seconds."""
        count, last = 0, -float("inf")
        try:
            for frame in self._container.decode(self._stream):
                time = frame.time if frame.time is not None else count / (self.rate or 1)
                if time < last:
                    raise MediaError(f"{self.path}: time goes back at frame {count}; write the file again.")
                image = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                yield time, torch.rot90(image, frame.rotation // 90) if frame.rotation % 360 else image
                count, last = count + 1, time
        except FFmpegError as error:
            raise MediaError(f"{self.path} cannot be decoded at frame {count} ({error}); replace the file.") from error
        if not count:
            raise MediaError(f"{self.path} has no frame; check or replace the file.")
        self._check_whole()

    def _check_whole(self) -> None:
        """Refuse a file shorter than its index says, which decoders would take for a short clip."""
        end = max((entry.pos + entry.size for entry in self._stream.index_entries), default=0)
        if end > self.path.stat().st_size:
            raise MediaError(f"{self.path} is truncated; copy or download it again.")
