"""`VideoReader`: frames of a file with their times; a damaged or truncated file is never taken for a short clip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from heapq import heappop, heappush
from pathlib import Path

import av
import torch
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream
from jaxtyping import UInt8
from torch import Tensor

from memkit.checks import total_memory
from memkit.errors import MediaError
from memkit.video.structure import structural_fault
from memkit.video.upright import MOST_PIXELS, upright

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,gif,ogg,asf,mxf,nut,ivf,h264,hevc,m4v,obu,"
    "rawvideo,yuv4mpegpipe,apng,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,image2"
)
"""FFmpeg's formats that hold the pictures themselves. Others, such as playlists, refer to further files or addresses,
which are never followed."""
_WITHOUT_PRESENTATION_TIMES = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
"""Formats that state only the order in which frames are decoded."""
_FRAME_PER_PACKET = {"vp9", "av1"}
"""Codecs that show one picture per packet. Of others, a packet may hold half a picture, or one that is never shown."""
_LONGEST_GAP = 86_400.0  # seconds between two frames


class VideoReader:
    """A local file open for decoding; every error names the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> VideoReader:
        if not os.path.isfile(self.path):  # false, too, for names that no file can have
            raise MediaError(f"{self.path} is not a file; check the path.")
        # A name such as a%03d.png is that of one file too.
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "pattern_type": "none"}
        try:
            self._container = av.open(f"file:{self.path}", "r", container_options=options)
        except (OSError, FFmpegError, UnicodeError) as error:
            raise MediaError(
                f"{self.path} cannot be opened as a video ({_reason(error)}); replace the file. Playlists and other "
                "files that only refer to videos are not followed."
            ) from error
        try:
            self._open_stream()
        except BaseException:
            self._container.close()
            raise
        return self

    def _open_stream(self) -> None:
        pictures = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art
        streams = [s for s in self._container.streams.video if not Disposition(s.disposition) & pictures]
        if not streams:
            raise MediaError(f"{self.path} has no video stream; check or replace the file.")
        self._stream: VideoStream = streams[0]
        if self._stream.codec_context is None:
            raise MediaError(f"{self.path} has a video stream of an unknown codec; replace the file, or convert it.")
        # Frame threads would drop errors in the last packets of the file, and the pictures with them.
        self._stream.thread_type = "SLICE"
        # By default, decoders conceal damage and report nothing.
        self._stream.codec_context.options = {
            "err_detect": "+crccheck+bitstream+buffer+explode",
            "max_pixels": str(MOST_PIXELS),
        }
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate else None

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def times(self) -> list[float]:
        """Times of all frames; the file is decoded to its end, checked and rewound."""
        times = [time for time, _ in self._decoded()]
        try:
            self._container.seek(0)
        except FFmpegError as error:
            raise MediaError(f"{self.path} cannot be rewound ({_reason(error)}); replace the file.") from error
        return times

    def frames(self) -> Iterator[tuple[float, UInt8[Tensor, "height width 3"]]]:
        """Each frame, as it is to be shown, with its time in seconds. Whoever takes all frames takes the whole file.

        Raises:
            MediaError: the file is damaged or truncated, the size of the pictures changes, time goes back, or there is
                no frame; it cannot be shown, see `upright`.
        """
        aspect = self._stream.sample_aspect_ratio
        for time, frame in self._decoded():
            try:
                image = upright(frame, aspect)
            except MediaError as error:
                raise MediaError(f"{self.path}: {error}") from error
            yield time, image

    def all_frames(self) -> tuple[list[float], list[Tensor]]:
        """The times and the images of `frames`; also a `MediaError` before they fill more than half of the memory."""
        times, images, room = [], [], total_memory(torch.device("cpu")) // 2
        for time, image in self.frames():
            room -= image.nbytes
            if room < 0:
                raise MediaError(
                    f"{self.path}: its first {len(images):,} frames of {image.shape[0]}×{image.shape[1]} pixels fill "
                    "half of the memory; read a part of it with read_clip."
                )
            times.append(time)
            images.append(image)
        return times, images

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Each frame as it is stored, with its time."""
        count, last, size = 0, -float("inf"), None
        try:
            for stamp, frame in self._stamped():
                time = count / (self.rate or 1) if stamp is None else float(stamp * (frame.time_base or 1))
                if frame.is_corrupt:
                    raise self._damaged(f"at frame {count}")
                if time < last:
                    raise MediaError(f"{self.path}: time goes back at frame {count}; write the file again.")
                if count and time - last > _LONGEST_GAP:
                    raise MediaError(
                        f"{self.path}: frame {count} comes {time - last:,.0f} s after the one before, more than a day; "
                        "its times are damaged, write the file again."
                    )
                size = size or (frame.width, frame.height)
                if size != (frame.width, frame.height):
                    raise MediaError(
                        f"{self.path}: the pictures change from {size[0]}×{size[1]} to {frame.width}×{frame.height} "
                        f"pixels at frame {count}; cut the file there."
                    )
                yield time, frame
                count, last = count + 1, time
        except FFmpegError as error:
            raise self._damaged(f"at frame {count} ({_reason(error)})") from error
        self._check_whole()
        if not count:
            raise MediaError(f"{self.path} has no frame; check or replace the file.")

    def _stamped(self) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Each frame with its time in units of its time base, or None if the file states none.

        Formats without presentation times give the times of the packets, in the order of decoding: frames come in the
        order of presentation, so the next frame has the least time that is left.
        """
        ordered = not _WITHOUT_PRESENTATION_TIMES.isdisjoint(self._container.format.name.split(","))
        waiting: list[int] = []
        missing = 0
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise self._damaged(f"at byte {packet.pos}")
            if ordered and packet.dts is not None and packet.size:
                heappush(waiting, packet.dts)
            missing += bool(packet.size) and not packet.is_discard
            for frame in packet.decode():
                missing -= 1
                yield (heappop(waiting) if ordered and waiting else frame.pts), frame

        if missing > 0 and self._stream.codec_context.codec.canonical_name in _FRAME_PER_PACKET:
            raise self._damaged(f"in {missing} of its pictures")

    def _check_whole(self) -> None:
        """Refuse a file shorter than its index says, or whose structure is broken."""
        end = max((entry.pos + entry.size for entry in self._stream.index_entries), default=0)
        if end > self.path.stat().st_size:
            raise MediaError(f"{self.path} is truncated; copy or download it again.")
        fault = structural_fault(self.path, self._container.format.name)
        if fault:
            raise MediaError(f"{self.path} {fault}.")

    def _damaged(self, where: str) -> MediaError:
        """The error for damage that shows in decoding; that the file is truncated is said in preference."""
        try:
            self._check_whole()
        except MediaError as error:
            return error
        return MediaError(f"{self.path} is damaged {where}; copy or download it again.")


def _reason(error: Exception) -> str:
    """FFmpeg's words for an error, without its number and the file's name."""
    return getattr(error, "strerror", None) or str(error)
