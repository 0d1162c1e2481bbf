"""Videos, interruptions and metrics."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memkit.interruptions import CameraOff, Fog, LightsOff, LookAway, Occluder, Timing, interrupt
from memkit.metrics import bootstrap, psnr, ssim
from memkit.video import VideoWriter, first_frame, read_clip, read_frames, read_video, resample, resize, write_video
from tests.faults.inputs import HUGE, INF, NAN, NO_NUMBER, NO_PLACE, NO_POSITIVE_COUNT, NO_RATE, NO_SHARE, Api
from tests.faults.run_writers import make_video

FRAMES = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NO_FRAMES: tuple[Any, ...] = (
    FRAMES.float() / 255,
    FRAMES[:0],
    FRAMES[..., :1],
    FRAMES[0],
    FRAMES.permute(0, 3, 1, 2),
    FRAMES.long(),
    FRAMES[:, :0],
)


@functools.cache
def video() -> Path:
    folder = Path(tempfile.mkdtemp())
    make_video(folder, 0)
    return folder / "video.mp4"


def other(name: str, content: bytes) -> Path:
    file = Path(tempfile.mkdtemp()) / name
    file.write_bytes(content)
    return file


NO_VIDEO: tuple[Any, ...] = (
    "/proc/nowhere/at/all.mp4",
    "",
    "a\0b",
    tempfile.gettempdir(),
    "https://example.com/a.mp4",
    "file:///etc/passwd",
    "concat:a.mp4|b.mp4",
    "/dev/null",
    lambda: other("a.mp4", b""),
    lambda: other("a.mp4", b"not a video" * 100),
    lambda: other("a.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
    lambda: other("a.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
    lambda: other("a.txt", b"ffconcat version 1.0\nfile '/etc/passwd'\n"),
    lambda: other("a.sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
)
WORDS = {"path": ("a.mp4", "a.m3u8", "a.txt", "a.sdp", "file", "video"), "frames": ("video", "frame", "size", "uint8")}


def place(path: Any) -> Any:
    return video() if path is None else path


def write(path: Any, frames: Any, fps: Any) -> object:
    file = Path(tempfile.mkdtemp()) / "out.mp4" if path is None else path
    write_video(file, frames, fps)
    return read_video(file).frames


def grow(path: Any, frames: Any, fps: Any) -> object:
    file = Path(tempfile.mkdtemp()) / "out.mp4" if path is None else path
    with VideoWriter(file, fps) as writer:
        writer.add(frames)
    return read_video(file).frames


def interrupted(frames: Any, fps: Any) -> object:
    clip = interrupt(frames, fps, LightsOff())
    return clip.video, clip.amount


def kept(kind: type, **fields: Any) -> object:
    return interrupt(FRAMES.repeat(4, 1, 1, 1), 8.0, kind(**fields)).video


def timed(**fields: Any) -> object:
    return Timing(**fields).amount(24)


def measured(values: Any, resamples: Any, level: Any, seed: Any) -> object:
    return tuple(bootstrap(np.mean, values, resamples=resamples, level=level, seed=seed))


CLIP = {"path": None, "fps": 8.0, "num_frames": 4, "cut": "start", "pad": "hold"}
RULES = {"cut": ("end", None, 3), "pad": ("zero", None, 3)}
SIZES = (*NO_POSITIVE_COUNT, 10**9)

APIS = (
    Api("read_video", lambda path: read_video(place(path)), {"path": None}, {"path": NO_VIDEO}, WORDS),
    Api("read_frames", lambda path: read_frames(place(path)), {"path": None}, {"path": NO_VIDEO[:6]}, WORDS),
    Api(
        "read_clip",
        lambda path, **options: read_clip(place(path), **options),
        CLIP,
        {"path": NO_VIDEO[:10], "fps": (*NO_RATE, 1e-300), "num_frames": (*NO_POSITIVE_COUNT, 10**9, HUGE), **RULES},
        {**WORDS, "num_frames": ("frames",), "fps": ("rate",)},
    ),
    Api(
        "first_frame",
        lambda path, **options: first_frame(place(path), **options),
        {"path": None, "height": 16, "width": 16},
        {"path": NO_VIDEO[:3], "height": SIZES, "width": (0, -1, 1.5, NAN)},
        {**WORDS, "height": ("size",), "width": ("size",)},
    ),
    Api(
        "resample",
        resample,
        {"frames": FRAMES, "source": 8.0, "fps": 4.0, "num_frames": 3, "cut": "start", "pad": "hold"},
        {
            "frames": (FRAMES[:0],),
            "source": (
                0,
                -1.0,
                NAN,
                INF,
                "8",
                None,
                torch.zeros(5),
                torch.full((6,), NAN),
                torch.zeros(6),
                torch.arange(6.0).flip(0),
            ),
            "fps": NO_RATE,
            "num_frames": (*NO_POSITIVE_COUNT, HUGE),
            **RULES,
        },
        {"source": ("time", "rate", "fps"), "num_frames": ("frames",), "fps": ("rate",)},
    ),
    Api(
        "write_video",
        write,
        {"path": None, "frames": FRAMES, "fps": 8.0},
        {"path": (*NO_PLACE, ""), "frames": NO_FRAMES, "fps": (*NO_RATE, 1e12)},
        {**WORDS, "fps": ("rate",)},
    ),
    Api(
        "VideoWriter",
        grow,
        {"path": None, "frames": FRAMES, "fps": 8.0},
        {"path": NO_PLACE, "frames": (*NO_FRAMES, FRAMES[:, :31]), "fps": (*NO_RATE, 1e12)},
        {**WORDS, "fps": ("rate",)},
    ),
    Api(
        "resize",
        resize,
        {"frames": FRAMES, "height": 16, "width": 16, "rule": "crop"},
        {
            "frames": (FRAMES[:, :0], FRAMES[0], FRAMES[..., :0]),
            "height": SIZES,
            "width": SIZES,
            "rule": ("zoom", None, 3),
        },
        {"height": ("size",), "width": ("size",), "frames": WORDS["frames"]},
    ),
    Api(
        "interrupt",
        interrupted,
        {"frames": FRAMES.repeat(4, 1, 1, 1), "fps": 8.0},
        {"frames": NO_FRAMES, "fps": NO_RATE},
        {**WORDS, "fps": ("rate",)},
    ),
    Api(
        "Occluder",
        lambda **f: kept(Occluder, **f),
        {"cover": 0.9},
        {"look": ("x", None), "side": ("x", None), "leave": ("x", None), "cover": NO_SHARE, "seed": ("0", None, 1.5)},
    ),
    Api("LightsOff", lambda **f: kept(LightsOff, **f), {"gain": 0.04}, {"gain": NO_SHARE, "timing": (None, "0.3", 3)}),
    Api(
        "LookAway",
        lambda **f: kept(LookAway, **f),
        {"degrees": 20.0},
        {
            "degrees": (*NO_NUMBER, 360.0),
            "axis": ("x", None),
            "beyond": ("x", None),
            "keep": (*NO_SHARE, 0),
            "fov_degrees": (*NO_NUMBER, 0, -10.0, 180.0),
        },
    ),
    Api("CameraOff", lambda **f: kept(CameraOff, **f), {"show": "black"}, {"show": ("x", None, 3)}),
    Api("Fog", lambda **f: kept(Fog, **f), {"thickness": 8.0}, {"thickness": (*NO_NUMBER, -1.0), "seed": ("0", None)}),
    Api(
        "Timing",
        timed,
        {"begin": 0.3, "over": 0.6},
        {"begin": (*NO_NUMBER, -0.1, 0.5, 1.5), "over": (*NO_NUMBER, 0.1, 1.5)},
    ),
    *(
        Api(
            measure.__name__,
            measure,
            {"a": FRAMES, "b": FRAMES.flip(0)},
            {"a": NO_FRAMES, "b": (FRAMES[:3], FRAMES[:, :16])},
            {"a": WORDS["frames"], "b": WORDS["frames"]},
        )
        for measure in (psnr, ssim)
    ),
    Api(
        "bootstrap",
        measured,
        {"values": np.arange(9.0), "resamples": 50, "level": 0.95, "seed": 0},
        {
            "values": (np.array(["a"]), None),  # of no rows, it is documented, everything is NaN
            "resamples": NO_POSITIVE_COUNT,
            "level": (*NO_SHARE, 0, 1),
            "seed": ("0", NAN, -1, 1.5),
        },
        {"values": ("column", "value", "sample")},
    ),
)
