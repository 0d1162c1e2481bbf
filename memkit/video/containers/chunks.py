"""Containers of chunks that state their size: AVI, WebP, FLV, GIF and YUV4MPEG."""

from __future__ import annotations

import re
from typing import BinaryIO

from memkit.video.containers.faults import TRUNCATED, damaged


def check_riff(file: BinaryIO, end: int) -> str | None:
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
        return damaged(at), end
    after = at + 8 + size
    if after > end:
        return TRUNCATED, end
    if kind == b"RIFF" or (kind == b"LIST" and header[8:12] in (b"movi", b"rec ")):
        inside = at + 12
        while inside + 8 <= after:
            fault, inside = _chunks(file, inside, after)
            if fault:
                # A chunk that is longer than the list it is in has a damaged header; only the file can be truncated.
                return (damaged(at) if fault is TRUNCATED else fault), end
    return None, after + size % 2


def check_flv(file: BinaryIO, end: int) -> str | None:
    """FLV: each tag is followed by its own size."""
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at < end:
        file.seek(at)
        header = file.read(11)
        size = 11 + int.from_bytes(header[1:4], "big")
        if len(header) < 11 or at + size + 4 > end:
            return TRUNCATED
        file.seek(at + size)
        if header[0] & 0x1F not in (8, 9, 18) or int.from_bytes(file.read(4), "big") != size:
            return damaged(at)
        at += size + 4
    return None


def check_gif(file: BinaryIO, end: int) -> str | None:
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
                return damaged(at)
            while data[at]:
                at += data[at] + 1
            at += 1
    except IndexError:
        return TRUNCATED
    return None


def _colours(flags: int) -> int:
    """Bytes of the colour table that the flags of a GIF announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def check_webp(file: BinaryIO, end: int) -> str | None:
    """WebP: the file is as long as it says, and holds one picture, as FFmpeg reads no more."""
    header = file.read(21)
    if int.from_bytes(header[4:8], "little") + 8 > end:
        return TRUNCATED
    if header[12:16] == b"VP8X" and header[20] & 2:
        return "is an animated WebP, which cannot be decoded; convert it to another format"
    return None


def check_y4m(file: BinaryIO, end: int) -> str | None:
    """YUV4MPEG: frames of one size follow each other up to the end of the file."""
    header = file.readline(256)
    fields = {word[:1]: word[1:] for word in header.decode("latin-1").split()[1:]}
    try:
        size = _planes(int(fields["W"]), int(fields["H"]), fields.get("C", "420"))
    except (KeyError, ValueError):
        return damaged(0)
    at = len(header)
    while size and at < end:
        file.seek(at)
        mark = file.readline(80)
        if not mark.startswith(b"FRAME"[: len(mark)]):
            return damaged(at)
        at += len(mark) + size
    return TRUNCATED if size and at > end else None


def _planes(width: int, height: int, colours: str) -> int | None:
    """Bytes of a frame; None for a form of colours that is not known."""
    form = re.match(r"(mono|420|411|422|444alpha|444)", colours)
    if form is None:
        return None
    across, down = {"420": (2, 2), "411": (4, 1), "422": (2, 1)}.get(form[0], (1, 1))
    chroma = -(-width // across) * -(-height // down) * (0 if form[0] == "mono" else 2)
    deep = re.search(r"(?:p|mono)(\d+)$", colours)
    return (width * height * (2 if form[0] == "444alpha" else 1) + chroma) * (2 if deep and int(deep[1]) > 8 else 1)


def check_jpeg(file: BinaryIO, end: int) -> str | None:
    """JPEG: segments and scans follow each other up to the mark of the end. What follows may be anything."""
    data = file.read()
    if data[:2] != b"\xff\xd8":  # another picture
        return None
    at = 2
    while at + 4 <= end and data[at] == 0xFF:
        if data[at + 1] == 0xD9:
            return None
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        while scan and (at := data.find(b"\xff", at)) >= 0 and data[at + 1 : at + 2] and _in_scan(data[at + 1]):
            at += 2
        if at < 0:
            return TRUNCATED
    return None if data[at : at + 2] == b"\xff\xd9" else TRUNCATED if at + 4 > end else damaged(at)


def _in_scan(mark: int) -> bool:
    """Whether the byte after 0xFF in a scan belongs to it: the byte 0xFF itself, or a mark to restart at."""
    return mark == 0 or 0xD0 <= mark <= 0xD7
