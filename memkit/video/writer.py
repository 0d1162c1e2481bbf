"""`VideoWriter`: an mp4 that grows, and plays at any time."""

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


def same_bytes() -> dict[str, str]:
    """Options of libx264 with which equal frames always give equal files.

    Its AVX-512 code reads memory that nobody has written (in the macroblock tree of the lookahead), so that one video
    encoded twice may differ by a few values. The AVX2 code gives the file that every other processor makes.
    """
    return {"x264-params": "asm=avx2"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}


class VideoWriter:
    """Frames go to disk as they come; memory does not grow with the video.

        with VideoWriter("long.mp4", fps=16) as video:
            for chunk in chunks:
                video.add(chunk)

    What was added, but for its last frame, is in the file at once and stays if the process is killed: the mp4 is
    fragmented, and the encoder holds nothing back. For that it is larger than what `write_video` makes. A file that is
    there is replaced when the first frames come.

    Args:
        path: of the mp4.
        fps: frames a second.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        if not fps > 0:
            raise InputError(f"{path}: a video needs a positive rate, not {fps} fps.")
        self.path, self.fps = Path(path), fps
        self._container: Any = None
        self._stream: Any = None

    def add(self, frames: UInt8[Tensor, "time height width 3"]) -> None:
        """Write frames behind those that are there.

        Raises:
            InputError: no frames, an odd height or width (the codec needs even ones), or another size than before.
            MediaError: the file cannot be written.
        """
        height, width = frames.shape[1:3]
        if not frames.numel() or height % 2 or width % 2:
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
            raise MediaError(f"{self.path} cannot be written: {error}; see to its folder and room.") from error

    def close(self) -> None:
        """The end; nothing can be added any more."""
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
