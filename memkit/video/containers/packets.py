"""Streams of packets: MPEG transport and program streams, and Ogg."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from memkit.video.containers.faults import TRUNCATED, damaged


def check_transport_stream(file: BinaryIO, end: int) -> str | None:
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
            return TRUNCATED
        if packet[offset] != 0x47:
            return damaged(at)
    return None


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_ogg(file: BinaryIO, end: int) -> str | None:
    """Ogg: pages follow each other, each with a checksum; each stream's last page says that it is the last."""
    at, open_streams = 0, set()
    while at < end:
        file.seek(at)
        header = file.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            return damaged(at)
        if len(header) < 27:
            return TRUNCATED
        lengths = file.read(header[26])
        content = file.read(sum(lengths))
        if len(lengths) < header[26] or len(content) < sum(lengths):
            return TRUNCATED
        # The bits of Ogg's checksum are in the opposite order of zlib's, and nothing is inverted.
        page = header[:22] + bytes(4) + header[26:] + lengths + content
        crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if crc.to_bytes(4, "big").translate(_REVERSED) != header[22:26]:
            return damaged(at)
        at += len(page)
        (open_streams.discard if header[5] & 4 else open_streams.add)(header[14:18])
    return TRUNCATED if open_streams else None


def check_program_stream(file: BinaryIO, end: int) -> str | None:
    """MPEG program streams: packs and packets of a stated size follow each other. A stream may end after any of them,
    so one that was cut there is not found."""
    at = 0
    while at < end:
        file.seek(at)
        header = file.read(14)
        if header[:3] != bytes((0, 0, 1))[: len(header)] or len(header) < 4:
            return None if at and not header.strip(b"\0") else damaged(at)  # the end may be padded
        kind = header[3]
        if kind == 0xB9:  # the end
            at += 4
        elif kind == 0xBA:  # a pack of MPEG-2 or MPEG-1
            at += 14 + (header[13] & 7) if len(header) == 14 and header[4] & 0xC0 == 0x40 else 12
        elif kind >= 0xBB:
            at += 6 + int.from_bytes(header[4:6], "big")
        else:
            return damaged(at)
    return TRUNCATED if at > end else None
