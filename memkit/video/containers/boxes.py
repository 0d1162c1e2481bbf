"""MP4 and MOV: boxes inside boxes, with tables of the samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from memkit.video.containers.faults import TRUNCATED, damaged

_NESTS = {b"trak", b"mdia", b"minf", b"stbl", b"traf"}
_TABLES = re.compile(
    rb"st(sd|ts|sc|sz|z2|co|ss|sh|ps|dp)|ctts|cslg|co64|padb|sdtp|sbgp|sgpd|subs|sai[zo]|uuid|free|skip"
)


def check_boxes(file: BinaryIO, end: int) -> str | None:
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
            return damaged(at) if b"moof" in rest or b"mdat" in rest or b"moov" in rest else None
        if at + size > end:
            return TRUNCATED
        if kind in (b"moov", b"moof"):
            file.seek(at)
            box = file.read(size)
            if not _nests(box) or not _tables_agree(box):
                return damaged(at)
        at += size
    return None


def _nests(box: bytes) -> bool:
    """Whether boxes follow each other up to the end of a box, also inside those, and tables of samples are known."""
    at = 8
    while at + 8 <= len(box):
        size, kind = int.from_bytes(box[at : at + 4], "big"), box[at + 4 : at + 8]
        if size == 0 and not box[at:].strip(b"\0"):  # QuickTime ends some boxes in zeros
            return True
        if size < 8 or at + size > len(box) or not kind.isascii() or not kind.decode().isprintable():
            return False
        if box[4:8] == b"stbl" and not _TABLES.fullmatch(kind):
            return False
        if kind in _NESTS and not _nests(box[at : at + size]):
            return False
        at += size
    return True


def _tables_agree(movie: bytes) -> bool:
    """Whether the tables of each video track are about equally many samples: sizes, times and chunks."""
    for track in _inside(movie, b"trak"):
        for media in _inside(track, b"mdia"):
            if any(handler[16:20] == b"vide" for handler in _inside(media, b"hdlr")):
                for table in (table for info in _inside(media, b"minf") for table in _inside(info, b"stbl")):
                    if len(set(_counts(table))) > 1:
                        return False
    return True


def _inside(box: bytes, kind: bytes) -> Iterator[bytes]:
    """The boxes of a kind that are directly inside a box, with their headers."""
    at = 8
    while at + 8 <= len(box):
        size = int.from_bytes(box[at : at + 4], "big")
        if size < 8:  # other data, or a size that such a box never needs
            return
        if box[at + 4 : at + 8] == kind:
            yield box[at : at + size]
        at += size


def _counts(table: bytes) -> Iterator[int]:
    """The number of samples by each of the tables that there are."""
    for kind in (b"stsz", b"stz2"):
        yield from (int.from_bytes(sizes[16:20], "big") for sizes in _inside(table, kind))
    for sizes in _inside(table, b"stsz"):
        if int(_numbers(sizes, 20).max(initial=0)) >= 1 << 30:  # FFmpeg leaves such a sample out
            yield -1
    for kind in (b"stts", b"ctts"):
        yield from (int(_entries(times, 2)[:, 0].sum()) for times in _inside(table, kind))
    chunks = sum(int.from_bytes(box[12:16], "big") for kind in (b"stco", b"co64") for box in _inside(table, kind))
    for groups in _inside(table, b"stsc"):
        entries = _entries(groups, 3)
        first = np.append(entries[:, 0], chunks + 1)
        yield int((np.diff(first) * entries[:, 1]).sum())


def _entries(box: bytes, columns: int) -> np.ndarray:
    """The rows of a table of 32-bit numbers."""
    numbers = _numbers(box, 16)[: columns * int.from_bytes(box[12:16], "big")]
    return numbers[: len(numbers) // columns * columns].reshape(-1, columns)


def _numbers(box: bytes, start: int) -> np.ndarray:
    """All 32-bit numbers of a box from a byte on."""
    return np.frombuffer(box[start : len(box) - (len(box) - start) % 4], ">u4").astype(np.int64)
