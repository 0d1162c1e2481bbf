"""Find out from a container's own structure that a video file is truncated or damaged.

Decoders play what is left of a damaged file and report nothing. But most containers nest elements that state their
size: in a whole file these fit exactly. The checks read the headers of the elements, not the pictures; only Ogg and
Matroska have checksums, which are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from memkit.video.containers.boxes import check_boxes
from memkit.video.containers.chunks import check_flv, check_gif, check_jpeg, check_riff, check_webp, check_y4m
from memkit.video.containers.matroska import check_matroska
from memkit.video.containers.objects import check_asf, check_mxf, check_nut
from memkit.video.containers.packets import check_ogg, check_program_stream, check_transport_stream

_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "mp4": check_boxes,
    "matroska": check_matroska,
    "avi": check_riff,
    "flv": check_flv,
    "gif": check_gif,
    "jpeg_pipe": check_jpeg,
    "image2": check_jpeg,
    "webp_pipe": check_webp,
    "yuv4mpegpipe": check_y4m,
    "asf": check_asf,
    "mxf": check_mxf,
    "nut": check_nut,
    "mpegts": check_transport_stream,
    "mpeg": check_program_stream,
    "ogg": check_ogg,
}


def structural_fault(path: Path, format_name: str) -> str | None:
    """What is wrong with the structure of a container, as the end of a sentence that begins with the file's name.

    Args:
        path: the file.
        format_name: name of the format as FFmpeg reports it, such as ``"mov,mp4,m4a,3gp,3g2,mj2"``.

    Returns:
        The fault, or None if the file is whole or its format has no structure to check (such as bare H.264 streams).
    """
    for name in format_name.split(","):
        if name in _CHECKS:
            with path.open("rb") as file:
                return _CHECKS[name](file, os.fstat(file.fileno()).st_size)
    return None
