"""Matroska and WebM: elements that state their size, some with checksums."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from memkit.video.containers.faults import TRUNCATED, damaged

_SEGMENT, _CLUSTER, _VOID, _CRC = 0x18538067, 0x1F43B675, 0xEC, 0xBF
_TRACKS, _TRACK, _TRACK_NUMBER, _BLOCK = 0x1654AE6B, 0xAE, 0xD7, 0xA3
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _CLUSTER}
_NUMBERS = {0xE7, 0xA7, 0xAB}
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF}


def check_matroska(file: BinaryIO, end: int) -> str | None:
    """Matroska and WebM: only known elements follow each other in the segment and in each cluster, up to their end."""
    at, segment_end = 0, None
    while segment_end is None:
        element = _element(file, at, end)
        if element is None:
            return TRUNCATED
        kind, inside, size = element
        if kind == _SEGMENT:
            at, segment_end = inside, end if size is None else inside + size
        elif size is None:
            return damaged(at)
        else:
            at = inside + size
    if segment_end > end:
        return TRUNCATED
    cluster_end, tracks = None, set()
    while at < segment_end:
        if cluster_end is not None and at == cluster_end:
            cluster_end = None
        element = _element(file, at, end)
        if element is None or (element[2] is not None and element[1] + element[2] > segment_end):
            return TRUNCATED
        kind, inside, size = element
        known = _IN_SEGMENT if cluster_end is None else _IN_CLUSTER
        open_cluster = cluster_end == segment_end  # a cluster of unknown size ends where an element of the segment is
        if kind not in known | {_VOID, _CRC} and not (open_cluster and kind in _IN_SEGMENT):
            return damaged(at)
        if kind in _IN_SEGMENT and size is not None and not _matches_checksum(file, inside, size):
            return damaged(at)
        if kind in _NUMBERS and (size or 0) > 8:  # a block with a damaged id
            return damaged(at)
        if kind == _TRACKS and size is not None:
            tracks = _track_numbers(file, inside, inside + size)
        elif kind == _BLOCK and tracks and _number(file, inside) not in tracks:  # players leave the picture out
            return damaged(at)
        if kind == _CLUSTER:
            at, cluster_end = inside, segment_end if size is None else inside + size
        elif size is None:
            return damaged(at)
        else:
            at = inside + size
            if open_cluster and kind in _IN_SEGMENT:
                cluster_end = None
            if cluster_end is not None and at > cluster_end:
                return damaged(at)
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


def _matches_checksum(file: BinaryIO, at: int, size: int) -> bool:
    """Whether an element matches the CRC-32 at its beginning, which most writers put there; true without one."""
    file.seek(at)
    if size < 6 or file.read(2) != bytes([_CRC, 0x84]):
        return True
    return int.from_bytes(file.read(4), "little") == zlib.crc32(file.read(size - 6))


def _track_numbers(file: BinaryIO, at: int, end: int) -> set[int]:
    """The numbers of all tracks."""
    found = set()
    while at < end and (element := _element(file, at, end)) is not None:
        kind, inside, size = element
        if size is None:
            break
        if kind == _TRACK_NUMBER:
            file.seek(inside)
            found.add(int.from_bytes(file.read(size), "big"))
        at = inside if kind == _TRACK else inside + size
    return found


def _number(file: BinaryIO, at: int) -> int:
    """A number of variable length, as a block has that of its track."""
    file.seek(at)
    first = file.read(1)[0]
    width = 9 - first.bit_length()
    return (first & (0xFF >> width)) << 8 * (width - 1) | int.from_bytes(file.read(width - 1), "big")
