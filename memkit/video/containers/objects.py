"""Containers whose objects are known by long identifiers: ASF (WMV), MXF and NUT."""

from __future__ import annotations

from typing import BinaryIO

from memkit.video.containers.faults import TRUNCATED, damaged

_MXF_KEY, _MXF_PARTITION = bytes.fromhex("060e2b34"), bytes.fromhex("060e2b34020501010d01020101")
_NUT_INDEX = bytes.fromhex("4e58dd672f23e64e")


def check_asf(file: BinaryIO, end: int) -> str | None:
    """ASF: objects follow each other up to the end of the file."""
    at = 0
    while at < end:
        file.seek(at + 16)
        size = int.from_bytes(file.read(8), "little")
        if size < 24:  # a stream that was recorded while it ran does not know its size
            return None if at and size == 0 else damaged(at)
        at += size
    return TRUNCATED if at > end else None


def check_mxf(file: BinaryIO, end: int) -> str | None:
    """MXF: elements of key, length and value follow each other up to the end, where the last partition is."""
    at = file.read(1 << 16).find(_MXF_KEY)
    while 0 <= at < end:
        file.seek(at)
        header = file.read(25)
        if header[:4] != _MXF_KEY[: len(header)]:
            return damaged(at)
        if len(header) < 25:
            return TRUNCATED
        width = header[16] & 0x7F if header[16] & 0x80 else 0
        size = int.from_bytes(header[17 : 17 + width], "big") if width else header[16]
        inside = at + 17 + width
        if header[:13] == _MXF_PARTITION and header[13] in (2, 3, 4):  # of a header, a body or the footer
            file.seek(inside + 24)
            if int.from_bytes(file.read(8), "big") >= end:
                return TRUNCATED
        at = inside + size
    return TRUNCATED if at > end else None


def check_nut(file: BinaryIO, end: int) -> str | None:
    """NUT: the file ends in an index, which states its own size."""
    file.seek(max(0, end - 12))
    size = int.from_bytes(file.read(8), "big")
    file.seek(max(0, end - size))
    return None if 12 < size <= end and file.read(8) == _NUT_INDEX else TRUNCATED
