"""A truncated or damaged video file is refused by name, whatever its container, and never read as a shorter clip."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from memkit.errors import MediaError
from memkit.video import read_clip, read_frames, read_video, write_video
from tests.helpers.video_files import CONTAINERS, frame_numbers, numbered_noise, write_file, write_kind

FRAMES = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Tensor]]:
    """The bytes of a whole file of each kind, and its frames."""
    folder = tmp_path_factory.mktemp("videos")
    paths = {name: write_kind(folder, name, numbered_noise(FRAMES)) for name in CONTAINERS}
    return {name: (path.read_bytes(), read_video(path).frames) for name, path in paths.items()}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_whole_file_is_read_to_its_end(files, name) -> None:
    assert frame_numbers(files[name][1]) == list(range(FRAMES))


@pytest.mark.parametrize("name", CONTAINERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.02, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_or_complete(files, tmp_path: Path, name: str, share: float) -> None:
    data, whole = files[name]
    length = int(len(data) * share)
    length += name == "a.ts" and length % 188 == 0  # a transport stream may end after any of its packets
    (tmp_path / name).write_bytes(data[:length])
    for read in (lambda path: read_frames(path).frames, lambda path: read_clip(path, 8, FRAMES, cut="center")):
        try:
            got = read(tmp_path / name)
        except MediaError as error:
            assert name in str(error)
        else:  # what is missing was no picture
            assert torch.equal(got, whole)


@pytest.mark.parametrize("name", CONTAINERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.1, 0.8), fill=st.sampled_from([0, 255]))
def test_a_file_overwritten_in_the_middle_is_refused(files, tmp_path: Path, name: str, share: float, fill: int) -> None:
    data = bytearray(files[name][0])
    start, stop = int(len(data) * share), int(len(data) * (share + 0.1))
    data[start:stop] = bytes([fill]) * (stop - start)
    (tmp_path / name).write_bytes(data)
    try:
        read_video(tmp_path / name)
    except MediaError as error:
        assert name in str(error)
    else:  # GIF has no checksum, and 255 is what all its full blocks begin with
        assert name == "a.gif" and fill == 255


def test_what_a_camera_appends_to_a_file_is_no_damage(files, tmp_path: Path) -> None:
    data, whole = files["a.mp4"]
    (tmp_path / "a.mp4").write_bytes(data + bytes(range(200, 240)))
    assert torch.equal(read_video(tmp_path / "a.mp4").frames, whole)


def test_a_change_of_size_in_the_middle_is_named(tmp_path: Path) -> None:
    headers = {"bf": "0", "x264-params": "repeat-headers=1"}
    with av.open(str(tmp_path / "both.mkv"), "w") as both:
        stream, shift = None, 0
        for size in ((48, 64), (64, 96)):
            write_file(tmp_path / "part.mkv", numbered_noise(8, *size), "libx264", codec_options=headers)
            with av.open(str(tmp_path / "part.mkv")) as part:
                stream = stream or both.add_stream_from_template(part.streams.video[0])
                for packet in part.demux(part.streams.video[0]):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        both.mux(packet)
            shift += 1000
    with pytest.raises(MediaError, match=r"both.mkv: the pictures change from 64×48 to 96×64 pixels at frame 8"):
        read_video(tmp_path / "both.mkv")


def test_files_that_refer_to_others_are_not_followed(files, tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(files["a.ts"][0])
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile a.ts\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:5,\na.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mp4").write_bytes((tmp_path / "list.m3u8").read_bytes())
    for name in ("list.txt", "list.m3u8", "list.mp4"):
        with pytest.raises(MediaError, match=f"{name} cannot be opened.*not followed"):
            read_video(tmp_path / name)
    for address in ("http://127.0.0.1:9/a.mp4", f"concat:{tmp_path / 'a.ts'}", f"subfile,,start,0,end,0,,:{tmp_path}"):
        with pytest.raises(MediaError, match="is not a file"):
            read_video(address)


def test_a_name_that_looks_like_an_address_is_a_file(files, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "concat:a|b.ts").write_bytes(files["a.ts"][0])
    monkeypatch.chdir(tmp_path)
    assert len(read_video("concat:a|b.ts").frames) == FRAMES


def test_a_video_that_memory_does_not_hold_is_refused_by_name(tmp_path, monkeypatch):
    write_video(tmp_path / "long.mp4", torch.zeros(40, 32, 48, 3, dtype=torch.uint8), 8)
    monkeypatch.setattr("memkit.video.reader.total_memory", lambda device: 2 * 30 * 32 * 48 * 3)
    for read in (read_video, read_frames):
        with pytest.raises(MediaError, match=r"long.mp4: its first 30 frames of 32×48 .*read_clip"):
            read(tmp_path / "long.mp4")
    assert len(read_clip(tmp_path / "long.mp4", 8.0, 30)) == 30
