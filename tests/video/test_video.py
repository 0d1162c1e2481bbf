"""Videos keep their speed, their colours and their way up; a file that cannot be read says so by name."""

import random
import struct
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError, MediaError
from memkit.video import (
    Resize,
    batch_from_model,
    from_model,
    read_clip,
    read_video,
    resample,
    resize,
    to_model,
    write_video,
)
from memkit.worlds import sample_law
from tests.helpers.type_checks import unchecked


def numbered(count: int) -> torch.Tensor:
    """Frames that tell which they are."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 2, 2, 3)


def numbers(frames: torch.Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def grey_steps(count: int) -> torch.Tensor:
    """Frames that tell which they are after a lossy codec."""
    return (torch.arange(count) * 10 + 5).byte()[:, None, None, None].expand(count, 32, 48, 3).contiguous()


def step_numbers(frames: torch.Tensor) -> list[int]:
    return ((frames.float().mean((1, 2, 3)) - 5) / 10).round().int().tolist()


def write_raw(path: Path, frames: torch.Tensor, codec: str, ticks: list[int] | None = None) -> None:
    """Any codec, and any timestamps in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), ticks[i] if ticks else i * 125
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def law() -> torch.Tensor:
    return sample_law(random.Random(0), "memory").video(fps=8.0)


def test_write_then_read_gives_the_clip(tmp_path, law):
    write_video(tmp_path / "a.mp4", law, 8)
    frames, fps = read_video(tmp_path / "a.mp4")
    assert frames.shape == law.shape and frames.dtype == torch.uint8 and fps == pytest.approx(8)
    assert (frames.float() - law.float()).abs().mean() < 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fps", [8, 16.0, 23.976, 29.97, 60])
def test_rate_survives_the_file(tmp_path, fps):
    write_video(tmp_path / "a.mp4", grey_steps(9), fps)
    frames, read = read_video(tmp_path / "a.mp4")
    assert read == pytest.approx(fps, rel=1e-3) and step_numbers(frames) == list(range(9))


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_webm_is_read(tmp_path, law, codec):
    write_raw(tmp_path / "a.webm", law, codec)
    frames, fps = read_video(tmp_path / "a.webm")
    assert frames.shape == law.shape and fps == pytest.approx(8)
    assert (frames.float() - law.float()).abs().mean() < 12


def test_odd_sizes_gain_one_repeated_edge_and_no_resampling(tmp_path):
    frames = torch.zeros(4, 31, 47, 3, dtype=torch.uint8)
    frames[:, :, 40:] = 200
    frames[:, 28:] = 100
    write_video(tmp_path / "a.mp4", frames, 8)
    read = read_video(tmp_path / "a.mp4").frames
    assert read.shape == (4, 32, 48, 3)
    assert (read[:, :31, :47].float() - frames.float()).abs().mean() < 4
    assert (read[:, 31, :].float() - read[:, 30, :].float()).abs().mean() < 4


def test_a_phone_video_comes_upright(tmp_path):
    """The track matrix of a portrait recording: to be shown turned 90° clockwise."""
    frames = torch.zeros(4, 32, 64, 3, dtype=torch.uint8)
    frames[:, :16, :16] = 255  # the top left corner
    write_video(tmp_path / "a.mp4", frames, 8)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    (tmp_path / "b.mp4").write_bytes(data)
    for read in (read_video(tmp_path / "b.mp4").frames, read_clip(tmp_path / "b.mp4", 8, 4)):
        assert read.shape == (4, 64, 32, 3)
        assert (read.float() - frames.rot90(-1, (1, 2)).float()).abs().mean() < 4  # now the top right


def test_unreadable_files_are_named(tmp_path, law):
    write_video(tmp_path / "good.mp4", law, 8)
    data = (tmp_path / "good.mp4").read_bytes()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "folder.mp4").mkdir()
    for name in ("missing.mp4", "empty.mp4", "text.mp4", "half.mp4", "sound.mp4", "folder.mp4"):
        for read in (read_video, lambda path: read_clip(path, 8, 17), lambda path: read_clip(path, 8, 5, cut="center")):
            with pytest.raises(MediaError, match=name):
                read(tmp_path / name)


def test_a_file_cut_short_or_without_frames_is_not_taken_for_a_whole_one(tmp_path):
    noise = torch.randint(0, 255, (30, 32, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for image in noise.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = (tmp_path / "a.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        starts = [packet.pos or 0 for packet in container.demux() if packet.size]
    whole = len(read_video(tmp_path / "a.mp4").frames)
    assert whole == 30 and data.index(b"moov") < data.index(b"mdat")
    for length in (starts[20], starts[20] + 5, starts[-1], len(data) - 1):
        (tmp_path / "cut.mp4").write_bytes(data[:length])
        with pytest.raises(MediaError, match="cut.mp4 is truncated"):
            read_video(tmp_path / "cut.mp4")
        with pytest.raises(MediaError, match="cut.mp4 is truncated"):
            read_clip(tmp_path / "cut.mp4", 8, 5, cut="center")
        assert len(read_clip(tmp_path / "cut.mp4", 8, 5, cut="start")) == 5  # which is whole
    write_raw(tmp_path / "none.webm", torch.zeros(0, 32, 32, 3, dtype=torch.uint8), "libvpx")
    with pytest.raises(MediaError, match="none.webm"):
        read_video(tmp_path / "none.webm")


def test_write_refuses_what_is_no_video_and_leaves_nothing(tmp_path):
    for frames, fps in ((numbered(0), 8), (numbered(2), 0), (numbered(2), float("nan"))):
        with pytest.raises(InputError, match="a.mp4"):
            write_video(tmp_path / "a.mp4", frames, fps)
    with pytest.raises(MediaError, match="no-folder"):
        write_video(tmp_path / "no-folder" / "a.mp4", numbered(2), 8)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(MediaError, match="a.mp4 cannot be written"):
        write_video(tmp_path / "a.mp4", numbered(2), 8)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@settings(max_examples=300, deadline=None)
@given(count=st.integers(1, 40), wanted=st.integers(1, 40), fps=st.floats(0.5, 120))
def test_the_same_rate_keeps_every_frame(count, wanted, fps):
    frames = numbered(count)
    assert numbers(resample(frames, fps, fps, wanted)) == [min(k, count - 1) for k in range(wanted)]
    if wanted <= count:
        first = (count - wanted) // 2
        assert numbers(resample(frames, fps, fps, wanted, "center")) == list(range(first, first + wanted))


@settings(deadline=None)
@given(fps=st.sampled_from([6, 8, 12, 16, 24, 30]), factor=st.integers(2, 5), wanted=st.integers(1, 12))
def test_more_frames_a_second_of_one_motion_give_the_same_clip(fps, factor, wanted):
    slow = numbered(12)
    fast = (torch.arange(12 * factor) / factor).floor().byte()[:, None, None, None].expand(-1, 2, 2, 3)
    assert numbers(resample(fast, fps * factor, fps, wanted)) == numbers(resample(slow, fps, fps, wanted))


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0.001, 0.5), min_size=1, max_size=20),
    fps=st.floats(1, 60),
    wanted=st.integers(1, 30),
    begin=st.floats(0, 100),
)
def test_uneven_times_give_the_nearest_frame_and_the_own_speed(gaps, fps, wanted, begin):
    times = begin + torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)
    got = numbers(resample(numbered(len(times)), times, fps, wanted))
    for k, index in enumerate(got):
        target = times[0] + k / fps
        away = (times - target).abs()
        assert away[index] <= away.min() + 2e-6
    assert got == sorted(got)


@settings(deadline=None)
@given(count=st.integers(1, 9), wanted=st.integers(1, 40))
def test_short_clips_are_padded_by_the_named_rule(count, wanted):
    frames = numbered(count)
    assert numbers(resample(frames, 8, 8, wanted, pad="loop")) == [k % count for k in range(wanted)]
    if wanted > count:
        with pytest.raises(InputError, match=f"has {count} frames, not {wanted}"):
            resample(frames, 8, 8, wanted, pad="error")
    else:
        assert numbers(resample(frames, 8, 8, wanted, pad="error")) == list(range(wanted))


def test_a_clip_lasts_for_its_last_frame_too():
    """17 frames at 8 a second last 2.125 s: 34 frames at 16 a second."""
    assert numbers(resample(numbered(17), 8, 16, 34, pad="error")) == [k // 2 for k in range(34)]
    with pytest.raises(InputError):
        resample(numbered(17), 8, 16, 35, pad="error")


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("cut", ["start", "center"])
@pytest.mark.parametrize("fps", [4, 8, 12])
def test_reading_a_clip_is_resampling_the_file(tmp_path, suffix, cut, fps):
    write_raw(tmp_path / f"a{suffix}", grey_steps(21), "libx264" if suffix == ".mp4" else "libvpx")
    frames, source = read_video(tmp_path / f"a{suffix}")
    want = resample(frames, source, fps, 8, cut)
    assert torch.equal(read_clip(tmp_path / f"a{suffix}", fps, 8, cut), want)
    assert step_numbers(want) == numbers(resample(numbered(21), 8, fps, 8, cut))


def test_variable_rates_are_read_by_their_timestamps(tmp_path):
    ticks = [0, 125, 250, 1250, 1375, 1500, 1625, 1750]  # one second stands still
    write_raw(tmp_path / "a.mp4", grey_steps(8), "libx264", ticks)
    assert step_numbers(read_clip(tmp_path / "a.mp4", 8, 15)) == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5, 6, 7]
    assert step_numbers(read_clip(tmp_path / "a.mp4", 8, 4, cut="center")) == [2, 2, 2, 2]
    assert read_video(tmp_path / "a.mp4").fps == pytest.approx(4)


def test_the_start_of_a_long_file_is_read_without_the_rest(tmp_path):
    """Everything after the first second is overwritten; who reads on fails."""
    noise = torch.randint(0, 255, (240, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for image in noise.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    whole = read_clip(tmp_path / "a.mkv", 8, 8)
    data = (tmp_path / "a.mkv").read_bytes()
    cut = len(data) // 2
    (tmp_path / "a.mkv").write_bytes(data[:cut] + b"\xff" * (len(data) - cut))
    assert torch.equal(read_clip(tmp_path / "a.mkv", 8, 8), whole)
    try:
        read_all = len(read_video(tmp_path / "a.mkv").frames)
    except MediaError:
        read_all = 0
    assert read_all < 240


def test_impossible_wishes_are_refused():
    for fps, wanted in ((0, 4), (-1, 4), (float("nan"), 4), (8, 0)):
        with pytest.raises(InputError, match="give a (finite|whole) number from"):
            resample(numbered(3), 8, fps, wanted)
    with pytest.raises(InputError, match="no picture"):
        resample(numbered(0), 8, 8, 4)
    with pytest.raises(InputError, match="ascend"):
        resample(numbered(3), torch.tensor([0.0, 0.2, 0.1]), 8, 4)
    with pytest.raises(InputError, match="height is 0"):
        resize(numbered(3), 0, 4)
    with pytest.raises(InputError, match="'squash'.*crop, fit, stretch"):
        unchecked(resize)(numbered(3), 4, 4, "squash")
    with pytest.raises(InputError, match="'middle'.*start, center"):
        unchecked(resample)(numbered(3), 8, 8, 4, "middle")
    with pytest.raises(InputError, match="'mirror'.*hold, loop, error"):
        unchecked(resample)(numbered(3), 8, 8, 4, "start", "mirror")


sizes = st.integers(1, 50)


@settings(deadline=None)
@given(old=st.tuples(sizes, sizes), new=st.tuples(sizes, sizes), colour=st.integers(0, 255))
def test_a_plain_colour_survives_any_resize(old, new, colour):
    frames = torch.full((2, *old, 3), colour, dtype=torch.uint8)
    frames[..., 1] = 255 - colour
    rule: Resize
    for rule in ("crop", "stretch"):
        result = resize(frames, new[0], new[1], rule)
        assert result.shape == (2, *new, 3) and torch.equal(result, frames[:, :1, :1].expand_as(result))
    fit = resize(frames, new[0], new[1], "fit")
    assert fit.shape == (2, *new, 3)
    filled = fit[..., 0].int() + fit[..., 1] == 255
    assert bool((filled | (fit == 0).all(-1)).all()) and bool(filled[0].any())
    height, width = filled[0].any(1).sum().item(), filled[0].any(0).sum().item()
    scale = min(new[0] / old[0], new[1] / old[1])
    assert (height, width) == (max(1, round(old[0] * scale)), max(1, round(old[1] * scale)))


def test_proportions_and_centre_are_kept_unless_stretched():
    y, x = torch.meshgrid(torch.arange(48), torch.arange(96), indexing="ij")
    disc = ((y - 23.5) ** 2 + (x - 47.5) ** 2 < 18**2)[None, :, :, None].expand(1, 48, 96, 3).byte() * 255
    rule: Resize
    for rule in get_args(Resize):
        ratio = 2.0 if rule == "stretch" else 1.0
        result = resize(disc, 32, 32, rule)
        assert torch.equal(resize(disc.transpose(1, 2), 32, 32, rule).transpose(1, 2), result)
        on = result[0, :, :, 0] > 127
        high, wide = on.any(1).nonzero().flatten(), on.any(0).nonzero().flatten()
        assert len(high) / len(wide) == pytest.approx(ratio, rel=0.1)
        assert high.float().mean() == pytest.approx(15.5) and wide.float().mean() == pytest.approx(15.5)


def test_shrinking_averages_where_sampling_would_alias():
    lines = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    lines[:, :, ::4] = 200  # samples at the centres of the new pixels would miss them all
    small = resize(lines, 16, 16)
    assert (small[:, :, 2:-2].float() - 50).abs().max() < 6


def test_to_model_and_back():
    frames = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1).repeat(1, 1, 1, 3)
    frames[..., 1] = 7
    video = to_model(frames)
    assert video.shape == (1, 3, 4, 8, 8) and video.dtype == torch.float32
    assert (video.min(), video.max()) == (-1, 1)
    assert torch.equal(video[0, 1], torch.full((4, 8, 8), 7 / 127.5 - 1)) and torch.equal(video[0, 0], video[0, 2])
    assert torch.equal(from_model(video), frames)
    assert from_model(torch.tensor([-9.0, 9.0]).reshape(1, 1, 1, 1, 2).expand(1, 3, 1, 1, 2)).flatten().tolist() == [
        0, 0, 0, 255, 255, 255,
    ]  # fmt: skip


def test_a_batch_to_model_and_back_is_its_clips():
    clips = torch.randint(0, 256, (2, 3, 4, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    video = to_model(clips)
    assert torch.equal(video, torch.cat([to_model(clip) for clip in clips]))
    assert torch.equal(batch_from_model(video), clips)
