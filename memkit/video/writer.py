"""`VideoWriter`: an mp4 that grows and can be played at any time."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.error import FFmpegError
from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import InputError, MediaError
from memkit.video.checks import check_frames, check_rate


def same_bytes() -> dict[str, str]:
    """Options of libx264 with which equal frames always give equal files.

    Its AVX-512 code reads uninitialised memory (in the macroblock tree of the lookahead), so that encoding a video
    twice may give slightly different files. The AVX2 code gives the same file as all other processors.
    """
    return {"x264-params": "asm=avx2"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}


class VideoWriter:
    """Writes frames to disk as they come; memory does not grow with the video.

        with VideoWriter("long.mp4", fps=16) as video:
            for chunk in chunks:
                video.add(chunk)

    Frames are in the file as soon as they are added, except the last one, and stay if the process is killed: the mp4 is
    fragmented, and the encoder buffers nothing. It is larger than a file of `write_video`. An existing file is replaced
    when the first frames are added.

    Args:
        path: the mp4 file.
        fps: frames per second.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        check_rate(f"{path}: fps", fps)
        self.path, self.fps = Path(path), fps
        self._container: Any = None
        self._stream: Any = None

    def add(self, frames: UInt8[Tensor, "time height width 3"]) -> None:
        """Append frames.

        Raises:
            InputError: there are no frames, the height or width is odd (the codec needs even ones), or the size
                changes.
            MediaError: the file cannot be written.
        """
        check_frames(f"{self.path}: frames", frames)
        height, width = frames.shape[1:3]
        if height % 2 or width % 2:
            raise InputError(f"{self.path}: give frames of even height and width, not {tuple(frames.shape)}.")
        try:
            if self._container is None:
                self._open(height, width)
            assert self._container is not None
            if (self._stream.height, self._stream.width) != (height, width):
                raise InputError(f"{self.path} is {self._stream.height}×{self._stream.width}, not {height}×{width}.")
            for frame in frames.cpu().numpy():
                self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        except (OSError, FFmpegError) as error:
            raise MediaError(f"{self.path} cannot be written: {error}; check its folder and the space left.") from error

    def close(self) -> None:
        """Finish the file; no frames can be added afterwards."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, height: int, width: int) -> None:
        grows = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
        self._container = av.open(str(self.path), "w", format="mp4", options=grows)
        self._stream = self._container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(10_000))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.options = {"crf": "12", "tune": "zerolatency"}
