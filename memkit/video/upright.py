"""Frames as players show them: with square pixels, turned and mirrored as the file says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import torch
from av.sidedata.sidedata import Type
from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import MediaError

MOST_PIXELS = 1 << 27
"""Of a picture, 16384 × 8192: four times those of 8K. More is damage or an attack."""
_MOST_STRETCHED = 16
_MOST_KINDS = 64  # of side data; FFmpeg 8 has 35
_TICK = Fraction(1, 1000)


def upright(frame: av.VideoFrame, pixel_aspect: Fraction | None) -> UInt8[Tensor, "height width 3"]:
    """The frame in RGB, as it is to be shown.

    Args:
        frame: a decoded frame. Its display matrix, if it has one, says how to turn and mirror it.
        pixel_aspect: width of a stored pixel over its height, or None for square pixels. Frames are enlarged in one
            direction, never reduced, so that no detail is lost.

    Raises:
        MediaError: the display matrix is not a combination of quarter turns and reflections, the pixels are more than
            16 times as wide as high, or as high as wide, or there are more than `MOST_PIXELS`.
    """
    width, height = frame.width, frame.height
    if pixel_aspect:
        if not 1 / _MOST_STRETCHED <= pixel_aspect <= _MOST_STRETCHED:
            raise MediaError(f"its pixels are {float(pixel_aspect):g} times as wide as high; write the file again.")
        width, height = round(width * max(pixel_aspect, 1)), round(height * max(1 / pixel_aspect, 1))
    if width * height > MOST_PIXELS:
        raise MediaError(f"its pictures have {width}×{height} pixels, more than {MOST_PIXELS:,}; reduce them.")
    if (width, height) == (frame.width, frame.height):
        image = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    else:
        square = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
        image = torch.from_numpy(square.to_ndarray(format="rgb24"))
    matrix = next((side for side in _side_data(frame) if side.type is Type.DISPLAYMATRIX), None)
    return image if matrix is None else _shown(image, bytes(matrix))


def _side_data(frame: av.VideoFrame) -> list[Any]:
    """What FFmpeg has attached to a frame, of the kinds that PyAV knows."""
    try:
        return list(frame.side_data)  # pyright: ignore[reportArgumentType]  # its hint says that it is a mapping only
    except ValueError:  # a kind that PyAV does not know, such as EXIF, hides all others
        known = {kind.value for kind in Type}
        graph = av.filter.Graph()
        at = source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TICK)
        for kind in set(range(_MOST_KINDS)) - known:
            at.link_to(node := graph.add("sidedata", f"mode=delete:type={kind}"))
            at = node
        at.link_to(sink := graph.add("buffersink"))
        graph.configure()
        source.push(frame)
        return list(sink.pull().side_data)  # pyright: ignore


def _shown(image: Tensor, matrix: bytes) -> Tensor:
    """Apply a display matrix: nine 32-bit integers, of which a point (x, y) of the stored picture is shown at
    (a x + c y, b x + d y), up to a shift; 65536 stands for 1 (FFmpeg, libavutil/display.h)."""
    a, b, _, c, d, *_ = memoryview(matrix).cast("i")
    unit = max(abs(a), abs(b))
    turned = abs(a) < unit / 256  # quarter turns swap the axes
    x_axis, y_axis, rest = (b, c, (a, d)) if turned else (a, d, (b, c))
    if not unit or abs(abs(y_axis) - unit) > unit / 256 or any(abs(value) > unit / 256 for value in rest):
        raise MediaError(
            f"its display matrix is {[a, b, c, d]}, not a quarter turn or reflection; write the file again."
        )
    # In a turned picture the stored x runs down (b > 0) or up, and the stored y to the right (c > 0) or left.
    if turned:
        image = image.transpose(0, 1)
        flips = [axis for axis, sign in ((0, x_axis), (1, y_axis)) if sign < 0]
    else:
        flips = [axis for axis, sign in ((1, x_axis), (0, y_axis)) if sign < 0]
    return image.flip(flips) if flips else image.contiguous()
