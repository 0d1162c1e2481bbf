"""Find out from a container's own structure that a video file is truncated or damaged.

Decoders play what is left of a damaged file and report nothing. But most containers nest elements that state their
size: in a whole file these fit exactly. The checks here read the headers of the elements only, not the pictures.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_TRUNCATED = "is truncated; copy or download it again"
_DAMAGED = "is damaged at byte {at}; copy or download it again"


def structural_fault(path: Path, format_name: str) -> str | None:
    """What is wrong with the structure of a container, as the end of a sentence that begins with the file's name.

    Args:
        path: the file.
        format_name: name of the format as FFmpeg reports it, such as ``"mov,mp4,m4a,3gp,3g2,mj2"``.

    Returns:
        The fault, or None if the file is whole or its format has no structure to check (such as MPEG program streams).
    """
    checks: dict[str, Callable[[BinaryIO, int], str | None]] = {
        "mp4": _boxes,
        "matroska": _matroska,
        "avi": _riff,
        "flv": _flv,
        "gif": _gif,
        "mpegts": _transport_stream,
        "ogg": _ogg,
    }
    for name in format_name.split(","):
        if name in checks:
            with path.open("rb") as file:
                return checks[name](file, os.fstat(file.fileno()).st_size)
    return None


def _boxes(file: BinaryIO, end: int) -> str | None:
    """MP4 and MOV: the boxes at the top level follow each other. What follows the last box may be anything that holds
    no further fragment, as some cameras append data of their own."""
    at = 0
    while at + 8 <= end:
        file.seek(at)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 0:  # up to the end of the file
            size = end - at
        elif size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or not kind.isascii() or not kind.decode().isprintable():
            file.seek(at)
            rest = file.read()
            return _DAMAGED.format(at=at) if b"moof" in rest or b"mdat" in rest or b"moov" in rest else None
        if at + size > end:
            return _TRUNCATED
        at += size
    return None


_SEGMENT, _CLUSTER, _VOID, _CRC = 0x18538067, 0x1F43B675, 0xEC, 0xBF
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _CLUSTER}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}


def _matroska(file: BinaryIO, end: int) -> str | None:
    """Matroska and WebM: only known elements follow each other in the segment and in each cluster, up to their end."""
    at, segment_end = 0, None
    while segment_end is None:
        element = _element(file, at, end)
        if element is None:
            return _TRUNCATED
        kind, inside, size = element
        if kind == _SEGMENT:
            at, segment_end = inside, end if size is None else inside + size
        elif size is None:
            return _DAMAGED.format(at=at)
        else:
            at = inside + size
    if segment_end > end:
        return _TRUNCATED
    cluster_end = None
    while at < segment_end:
        if cluster_end is not None and at == cluster_end:
            cluster_end = None
        element = _element(file, at, end)
        if element is None or (element[2] is not None and element[1] + element[2] > segment_end):
            return _TRUNCATED
        kind, inside, size = element
        known = _IN_SEGMENT if cluster_end is None else _IN_CLUSTER
        open_cluster = cluster_end == segment_end  # a cluster of unknown size ends where an element of the segment is
        if kind not in known | {_VOID, _CRC} and not (open_cluster and kind in _IN_SEGMENT):
            return _DAMAGED.format(at=at)
        if kind == _CLUSTER:
            at, cluster_end = inside, segment_end if size is None else inside + size
        elif size is None:
            return _DAMAGED.format(at=at)
        else:
            at = inside + size
            if open_cluster and kind in _IN_SEGMENT:
                cluster_end = None
            if cluster_end is not None and at > cluster_end:
                return _DAMAGED.format(at=at)
    return None


def _element(file: BinaryIO, at: int, end: int) -> tuple[int, int, int | None] | None:
    """Id of an EBML element, the position of its content and its size (None: unknown); None if the file ends in it."""
    file.seek(at)
    header = file.read(min(12, end - at))
    if not header or not header[0]:
        return (0, at, None) if header else None
    length = 9 - header[0].bit_length()
    if len(header) <= length:
        return None
    first = header[length]
    width = 9 - first.bit_length() if first else 0
    if not 1 <= width <= 8:
        return 0, at, None
    if len(header) < length + width:
        return None
    size = int.from_bytes(header[length : length + width], "big") & ((1 << 7 * width) - 1)
    known = None if size == (1 << 7 * width) - 1 else size
    return int.from_bytes(header[:length], "big"), at + length + width, known


def _riff(file: BinaryIO, end: int) -> str | None:
    """AVI: the chunks of the file, of its lists of frames and of its records follow each other up to their end."""
    at = 0
    while at + 12 <= end:
        fault, at = _chunks(file, at, end)
        if fault:
            return fault
    return None


def _chunks(file: BinaryIO, at: int, end: int) -> tuple[str | None, int]:
    """The fault in a chunk, and the position after it; lists of frames are entered."""
    file.seek(at)
    header = file.read(12)
    kind, size = header[:4], int.from_bytes(header[4:8], "little")
    if not kind.isascii() or not kind.decode().isprintable():
        return _DAMAGED.format(at=at), end
    after = at + 8 + size
    if after > end:
        return _TRUNCATED, end
    if kind == b"RIFF" or (kind == b"LIST" and header[8:12] in (b"movi", b"rec ")):
        inside = at + 12
        while inside + 8 <= after:
            fault, inside = _chunks(file, inside, after)
            if fault:
                # A chunk that is longer than the list it is in has a damaged header; only the file can be truncated.
                return (_DAMAGED.format(at=at) if fault is _TRUNCATED else fault), end
    return None, after + size % 2


def _flv(file: BinaryIO, end: int) -> str | None:
    """FLV: each tag is followed by its own size."""
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at < end:
        file.seek(at)
        header = file.read(11)
        size = 11 + int.from_bytes(header[1:4], "big")
        if len(header) < 11 or at + size + 4 > end:
            return _TRUNCATED
        file.seek(at + size)
        if header[0] & 0x1F not in (8, 9, 18) or int.from_bytes(file.read(4), "big") != size:
            return _DAMAGED.format(at=at)
        at += size + 4
    return None


def _gif(file: BinaryIO, end: int) -> str | None:
    """GIF: blocks follow each other up to the trailer. Their content has no checksum, so damage to it is not found."""
    data = file.read()
    try:
        at = 13 + _colours(data[10])
        while data[at] != 0x3B:
            if data[at] == 0x21:
                at += 2
            elif data[at] == 0x2C:
                at += 11 + _colours(data[at + 9])
            else:
                return _DAMAGED.format(at=at)
            while data[at]:
                at += data[at] + 1
            at += 1
    except IndexError:
        return _TRUNCATED
    return None


def _colours(flags: int) -> int:
    """Bytes of the colour table that the flags of a GIF announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _transport_stream(file: BinaryIO, end: int) -> str | None:
    """MPEG transport streams: packets of one size follow each other, each with its synchronisation byte. A stream may
    end after any packet, so one that was cut between two packets is not found."""
    head = file.read(3 * 204 + 8)
    for size, offset in ((188, 0), (192, 4), (204, 0)):
        if all(head[k * size + offset] == 0x47 for k in range(3) if k * size + offset < len(head)):
            break
    else:
        return None  # FFmpeg found its packets behind other data
    file.seek(0)
    for at in range(0, end, size):
        packet = file.read(size)
        if len(packet) < size:
            return _TRUNCATED
        if packet[offset] != 0x47:
            return _DAMAGED.format(at=at)
    return None


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg(file: BinaryIO, end: int) -> str | None:
    """Ogg: pages follow each other, each with a checksum; each stream's last page says that it is the last."""
    at, open_streams = 0, set()
    while at < end:
        file.seek(at)
        header = file.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            return _DAMAGED.format(at=at)
        if len(header) < 27:
            return _TRUNCATED
        lengths = file.read(header[26])
        content = file.read(sum(lengths))
        if len(lengths) < header[26] or len(content) < sum(lengths):
            return _TRUNCATED
        # The bits of Ogg's checksum are in the opposite order of zlib's, and nothing is inverted.
        page = header[:22] + bytes(4) + header[26:] + lengths + content
        crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if crc.to_bytes(4, "big").translate(_REVERSED) != header[22:26]:
            return _DAMAGED.format(at=at)
        at += len(page)
        (open_streams.discard if header[5] & 4 else open_streams.add)(header[14:18])
    return _TRUNCATED if open_streams else None
