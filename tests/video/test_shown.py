"""Videos are read as players show them: upright, with square pixels, without cover art and hidden frames, in time."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from av.stream import Disposition
from torch import Tensor

from memkit.backbones import VideoFormat
from memkit.banks import posed_clip
from memkit.cameras import write_poses
from memkit.errors import MediaError
from memkit.video import read_clip, read_frames, read_video, resample
from tests.helpers.pose_files import cameras
from tests.helpers.video_files import frame_numbers, numbered_noise, write_file

MATRICES = [m for m in itertools.product((-1, 0, 1), repeat=4) if m.count(0) == 2 and m[0] * m[3] != m[1] * m[2]]
"""The eight quarter turns and reflections (a, b, c, d): a point (x, y) is shown at (a x + c y, b x + d y)."""


def with_matrix(path: Path, matrix: tuple[float, ...], target: Path) -> Path:
    """A copy of an mp4 file with another display matrix."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (round(65536 * value) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def corners(height: int = 32, width: int = 64) -> Tensor:
    """A picture that no quarter turn or reflection leaves as it is."""
    image = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    image[:, : height // 2, : width // 2] = 240
    image[:, : height // 2, width // 2 :] = 120
    return image


@pytest.mark.parametrize("matrix", MATRICES)
def test_pictures_are_turned_and_mirrored_as_the_file_says(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    write_file(tmp_path / "a.mp4", corners(), "libx264", codec_options={"crf": "4"})
    stored = read_video(tmp_path / "a.mp4").frames[0]
    shown = read_video(with_matrix(tmp_path / "a.mp4", matrix, tmp_path / "b.mp4")).frames[0]
    a, b, c, d = matrix
    y, x = torch.meshgrid(torch.arange(32), torch.arange(64), indexing="ij")
    across, down = a * x + c * y, b * x + d * y
    expected = torch.zeros(int(down.max() - down.min()) + 1, int(across.max() - across.min()) + 1, 3).byte()
    expected[down - down.min(), across - across.min()] = stored[y, x]
    assert torch.equal(shown, expected)


def test_a_matrix_that_is_no_quarter_turn_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "a.mp4", corners(), "libx264")
    for matrix in ((0.7, 0.7, -0.7, 0.7), (1, 0, 0, 2), (1, 0.5, 0, 1)):
        with pytest.raises(MediaError, match="b.mp4: its display matrix"):
            read_video(with_matrix(tmp_path / "a.mp4", matrix, tmp_path / "b.mp4"))


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(4, 3), Fraction(10, 11)])
def test_a_circle_is_round_whatever_the_shape_of_pixels(tmp_path: Path, aspect: Fraction) -> None:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    disc = ((x - 47.5) * float(aspect)) ** 2 + (y - 47.5) ** 2 < (40 * min(1, float(aspect))) ** 2
    frames = (disc * 255).byte()[None, :, :, None].expand(2, 96, 96, 3).contiguous()
    write_file(tmp_path / "a.mp4", frames, "libx264", pixel_aspect=aspect)
    shown = read_video(tmp_path / "a.mp4").frames[0, :, :, 0] > 127
    assert shown.shape == (round(96 * max(1, 1 / aspect)), round(96 * max(1, aspect)))
    assert shown.any(0).sum() / shown.any(1).sum() == pytest.approx(1, abs=0.05)


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover, video = container.add_stream("mjpeg"), container.add_stream("libx264", rate=8)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(torch.zeros(16, 16, 3).byte().numpy(), format="rgb24")))
        for image in numbered_noise(6).numpy():
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    moov = data.index(b"moov") - 4
    at, end, boxes = moov + 8, moov + int.from_bytes(data[moov : moov + 4], "big"), []
    while at < end:
        boxes.append(bytes(data[at : at + int.from_bytes(data[at : at + 4], "big")]))
        at += len(boxes[-1])
    boxes.sort(key=lambda box: box[4:8] != b"udta")  # the metadata, which holds the cover, before the tracks
    data[moov + 8 : end] = b"".join(boxes)
    (tmp_path / "a.mp4").write_bytes(data)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    assert frame_numbers(read_video(tmp_path / "a.mp4").frames) == list(range(6))


def test_frames_that_an_edit_list_hides_are_not_read(tmp_path: Path) -> None:
    """The edit list begins the presentation four frames later; they stay in the file, as references for decoding."""
    write_file(tmp_path / "a.mp4", numbered_noise(20), "libx264", codec_options={"bf": "0"})
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"elst") + 12
    ticks = struct.unpack(">I", data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20])[0]
    data[at + 4 : at + 8] = struct.pack(">i", 4 * ticks // 8)
    (tmp_path / "b.mp4").write_bytes(data)
    frames, times = read_frames(tmp_path / "b.mp4")
    assert frame_numbers(frames) == list(range(4, 20))
    center = read_clip(tmp_path / "b.mp4", 8, 8, cut="center")
    assert torch.equal(center, resample(frames, times.float(), 8, 8, "center"))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_of_avi_files_come_in_the_order_of_presentation(tmp_path: Path, codec: str) -> None:
    """AVI states no times of presentation, and frames with bidirectional prediction are stored in another order."""
    write_file(tmp_path / "a.avi", numbered_noise(20), codec, codec_options={"bf": "2"})
    frames, times = read_frames(tmp_path / "a.avi")
    assert frame_numbers(frames) == list(range(20))
    assert torch.allclose(times.diff(), torch.full((19,), 0.125, dtype=torch.float64))


def test_poses_of_a_variable_rate_belong_to_the_frames_nearest_in_time(tmp_path: Path) -> None:
    ticks = [0, 125, 250, 1250, 1375, 1500, 1625, 1750]  # the picture stands still for one second
    write_file(tmp_path / "a.mp4", numbered_noise(8), "libx264", ticks=ticks)
    path = cameras(8)
    write_poses(tmp_path / "a.npz", path)
    _, seen = posed_clip(tmp_path / "a.mp4", VideoFormat(5, 16, 16, 4.0))
    nearest = [0, 2, 2, 2, 3]  # at 0, 0.25, 0.5, 0.75 and 1 s
    assert seen is not None and torch.equal(seen.c2w, path.c2w[nearest])
