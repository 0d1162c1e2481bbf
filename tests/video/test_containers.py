"""Damage of single bits and headers, in more containers; claims that are refused; files that refer to others."""

from __future__ import annotations

import random
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from memkit.errors import MediaError
from memkit.video import first_frame, read_clip, read_frames, read_video
from tests.helpers.video_files import CONTAINERS, numbered_noise, write_file, write_kind

FRAMES = 16
OTHERS = {
    "a.mpg": ("mpeg2video", "mpeg"), "a.nut": ("mpeg4", "nut"), "a.wmv": ("wmv2", "asf"),
    "a.mxf": ("mpeg2video", "mxf"), "a.ivf": ("libvpx", "ivf"), "a.apng": ("apng", "apng"), "a.y4m": ("", ""),
    "a.jpg": ("", ""), "a.png": ("", ""),
}  # fmt: skip
WITH_CHECKSUMS = {"a.mkv", "a.ogv", "a.apng", "a.png"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Tensor]]:
    """The bytes of a whole file of each kind, and its frames."""
    folder, frames = tmp_path_factory.mktemp("videos"), numbered_noise(FRAMES)
    for name in CONTAINERS:
        write_kind(folder, name, frames)
    for name, (codec, format) in OTHERS.items():
        if name == "a.y4m":
            luma = frames[..., 0].numpy()
            planes = [b"FRAME\n" + y.tobytes() + bytes([128]) * (y.size // 2) for y in luma]
            (folder / name).write_bytes(b"YUV4MPEG2 W64 H48 F8:1 C420jpeg\n" + b"".join(planes))
        elif not codec:
            Image.fromarray(frames[0].numpy()).save(folder / name, quality=95)
        else:
            write_file(folder / name, frames, codec, format, rate=25 if codec == "mpeg2video" else 8)
    paths = {name: folder / name for name in (*CONTAINERS, *OTHERS)}
    return {name: (path.read_bytes(), read_video(path).frames) for name, path in paths.items()}


@pytest.mark.parametrize("name", [*CONTAINERS, *OTHERS])
def test_no_frame_is_lost_to_a_flipped_bit_and_checksums_are_compared(files, tmp_path: Path, name: str) -> None:
    data, whole = files[name]
    rng, path = random.Random(name), tmp_path / name
    # The last packets count: frame threads would drop their errors. In a stream, a bit may merge two pictures.
    starts = [0.0] * 8 + [0.95] * 8 if name not in ("a.ts", "a.mpg") else []
    for start in starts:
        flipped = bytearray(data)
        flipped[rng.randrange(int(start * len(data)), len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            got = read_frames(path).frames
        except MediaError as error:
            assert name in str(error)
        else:
            assert got.shape == whole.shape
            assert name not in WITH_CHECKSUMS or torch.equal(got, whole)


@pytest.mark.parametrize("name", OTHERS)
def test_other_containers_are_refused_or_complete_when_cut(files, tmp_path: Path, name: str) -> None:
    data, whole = files[name]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        length = int(len(data) * share) // 2048 * 2048 + 1000  # a program stream may end after any of its packs
        (tmp_path / name).write_bytes(data[:length])
        try:
            got = read_frames(tmp_path / name).frames
        except MediaError as error:
            assert name in str(error)
        else:
            assert torch.equal(got, whole)


def test_tables_of_samples_that_disagree_are_found(files, tmp_path: Path) -> None:
    data = files["a.mp4"][0]
    for table, at, what in ((b"stts", 12, 1), (b"ctts", 12, 1), (b"stsz", 12, 1), (b"stsc", 16, 1), (b"ctts", 0, 0x20)):
        damaged = bytearray(data)
        damaged[data.index(table) + at + (3 if what == 1 else 0)] ^= what
        (tmp_path / "a.mp4").write_bytes(damaged)
        with pytest.raises(MediaError, match=r"a\.mp4"):
            read_video(tmp_path / "a.mp4")


def test_a_codec_that_is_not_known_is_named(files, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(files["a.mp4"][0].replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match=r"a\.mp4 has a video stream of an unknown codec"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
def test_pictures_of_cameras_are_shown_as_their_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32], image[:16, 32:] = 240, 120
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(image).save(path, exif=exif, quality=95)
    with Image.open(path) as stored:
        turned = torch.from_numpy(np.asarray(ImageOps.exif_transpose(stored).convert("RGB")).copy())
    shown = read_video(path).frames[0]
    assert shown.shape == turned.shape and (shown.int() - turned.int()).abs().max() <= 2
    assert first_frame(path, *turned.shape[:2]).shape == (1, *turned.shape)


def png_that_claims(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    picture = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + picture + chunk(b"IEND", b"")


def y4m_that_claims(side: int = 8, rate: str = "8:1") -> bytes:
    return f"YUV4MPEG2 W{side} H{side} F{rate} C420jpeg\n".encode() + 3 * (b"FRAME\n" + bytes(96))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", png_that_claims(1_000_000), "damaged"),
        ("a.png", png_that_claims(20_000), "damaged"),
        ("a.y4m", y4m_that_claims(1_000_000), "cannot be opened"),
        ("a.y4m", y4m_that_claims(20_000), "a.y4m"),
        ("a.y4m", y4m_that_claims(rate="1:1000000000"), "1,000,000,000 s after the one before"),
    ],
)
def test_claims_that_make_no_sense_are_refused_at_once(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_video, lambda path: read_clip(path, 8, 4)):
        with pytest.raises(MediaError, match=message):
            read(tmp_path / name)


def test_a_name_with_a_pattern_is_the_name_of_one_picture(tmp_path: Path) -> None:
    for i in range(3):
        for suffix in ("png", "jpeg"):
            Image.new("RGB", (16, 16), (80 * i,) * 3).save(tmp_path / f"a{i}.{suffix}")
    for pattern in ("a%d.png", "a%d.jpeg", "a*.jpeg", "a[01].jpeg", "a?.jpeg"):
        shutil.copy(tmp_path / f"a2.{pattern.split('.')[1]}", tmp_path / pattern)
        frames = read_video(tmp_path / pattern).frames
        assert len(frames) == 1 and frames.float().mean() == pytest.approx(160, abs=2)


def test_a_movie_whose_pictures_are_in_another_file_is_not_followed(tmp_path: Path) -> None:
    """The data reference of the track names another file, as QuickTime writes it."""
    write_file(tmp_path / "other.mov", numbered_noise(4), "mpeg4", "mov")
    data = bytearray((tmp_path / "other.mov").read_bytes())
    name = str(tmp_path / "other.mov").encode()
    record = bytes(150) + struct.pack(">hh", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hh", -1, 0)
    alias = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    at = data.index(b"dref")
    grown = len(alias) - int.from_bytes(data[at + 12 : at + 16], "big")
    data[at + 12 : at + 12 + len(alias) - grown] = alias
    for kind in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = data.rindex(kind, 0, at + 4) - 4
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + grown).to_bytes(4, "big")
    (tmp_path / "a.mov").write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.mov"):
        read_video(tmp_path / "a.mov")


@pytest.mark.parametrize("name", ["", ".", "x" * 5000, "\0", "\udc80.mp4", "/dev/null", "pipe:0", "data:video/mp4,x"])
def test_names_that_no_video_has(name: str) -> None:
    with pytest.raises(MediaError, match="is not a file"):
        read_video(name)
