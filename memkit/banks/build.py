"""Build a memory bank from a folder of videos and a CSV of captions (`memkit.banks.captions`).

Nothing is skipped silently: a row or a file that cannot be used is a `BadItem` of the report, with the reason, and all
others are in the bank.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from tqdm import tqdm

from memkit.banks.ahead import read_ahead
from memkit.banks.bank import MemoryBank
from memkit.banks.captions import BadItem, Row, read_captions
from memkit.banks.items import reason_of
from memkit.checks import check_choice
from memkit.errors import BankError, InputError
from memkit.video.checks import check_rate
from memkit.video.frames import Cut, Pad, Resize, read_clip, resize
from memkit.video.pixels import to_model

Dtype = Literal["bf16", "fp16", "fp32"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_MOST_PIXELS = 1 << 34  # of a clip: 48 GiB of RGB
COMMIT_SECONDS = 30.0  # the most encoding that is lost if the process is killed


@runtime_checkable
class Format(Protocol):
    """Size and frame rate of the videos of a model."""

    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fps(self) -> float: ...


@runtime_checkable
class VideoEncoder(Protocol):
    """What building a bank needs of a backbone: `memkit.backbones.WanCodec`, `WanBackbone`, or anything like them."""

    @property
    def video_format(self) -> Format: ...

    def encode_video(self, video: Tensor) -> Tensor:
        """Latents [1, C, T', H', W'] of a video [1, 3, T, H, W] in [-1, 1], float32 on the CPU."""
        ...


class BuildReport(NamedTuple):
    """Ids added by this run, ids added by earlier runs, and items that could not be added."""

    added: list[str]
    present: list[str]
    bad: list[BadItem]


def build_bank(
    videos: str | os.PathLike[str],
    captions: str | os.PathLike[str],
    out: str | os.PathLike[str],
    backbone: VideoEncoder,
    model: str,
    *,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    cut: Cut = "start",
    pad: Pad = "hold",
    resize_rule: Resize = "crop",
    dtype: Dtype = "bf16",
    progress: bool = False,
) -> BuildReport:
    """Encode the clips of ``captions``, in the folder ``videos``, into the bank ``out``; a stopped run is resumed.

    Clips keep their speed and proportions; `memkit.video` explains ``cut``, ``pad`` and ``resize_rule``. Size and frame
    rate are by default those of the backbone. ``model`` names the backbone in the bank's info. A Wan clip of 81×480×832
    takes 4.2 MB in bf16 or fp16 (fp16 keeps three more bits; Wan's latents lie well inside its range), twice that in
    fp32. Clips are added to an existing bank; ids that it holds are not encoded again.

    Raises `InputError` for a caption file that cannot be read at all, and `BankError` if ``out`` was built with another
    model or format or is being written by another process. Encoded clips are committed every half minute and when the
    call is interrupted.
    """
    settings = clip_settings(backbone, model, num_frames, height, width, fps, cut, pad, resize_rule, dtype)
    rows, bad = read_captions(captions, videos)
    with bank_for(Path(out), settings) as bank:
        report = encode_rows(bank, rows, backbone, settings, progress)
    return report._replace(bad=sorted(bad + report.bad))


def clip_settings(
    backbone: VideoEncoder,
    model: str,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    cut: Cut = "start",
    pad: Pad = "hold",
    resize_rule: Resize = "crop",
    dtype: Dtype = "bf16",
) -> dict[str, Any]:
    """The settings of `build_bank` with these arguments, as the bank's info records them; `InputError` for bad ones."""
    for name, value, kind in (
        ("dtype", dtype, Dtype),
        ("cut", cut, Cut),
        ("pad", pad, Pad),
        ("resize", resize_rule, Resize),
    ):
        check_choice(name, value, get_args(kind))
    default = backbone.video_format
    shape = {
        "num_frames": default.num_frames if num_frames is None else num_frames,
        "height": default.height if height is None else height,
        "width": default.width if width is None else width,
    }
    rate = default.fps if fps is None else fps
    if not all(type(size) is int and size > 0 for size in shape.values()):
        raise InputError(f"A clip needs sizes of 1 or more, not {shape}.")
    check_rate("fps", rate)
    if (pixels := math.prod(shape.values())) > _MOST_PIXELS:
        raise InputError(f"Clips of {shape} have {pixels:,} pixels each, more than {_MOST_PIXELS:,}; ask for less.")
    return {"model": model, **shape, "fps": float(rate), "cut": cut, "pad": pad, "resize": resize_rule, "dtype": dtype}


def encode_file(file: Path, encoder: VideoEncoder, settings: dict[str, Any]) -> Tensor:
    """Latents [C, T, H, W] of a video file, with the settings that `clip_settings` returns."""
    return _encode(_read(file, settings), encoder, settings)


def encode_rows(
    bank: MemoryBank, rows: Sequence[Row], encoder: VideoEncoder, settings: dict[str, Any], progress: bool
) -> BuildReport:
    """`add_rows` with `encode_file`; the next videos are decoded while one is encoded."""
    known = set(bank.ids)
    lack = [row.file for row in rows if row.id not in known]
    with read_ahead(lambda file: _read(file, settings), lack) as videos:
        return add_rows(bank, rows, lambda _: _encode(next(videos).result(), encoder, settings), progress)


def _read(file: Path, settings: dict[str, Any]) -> Tensor:
    frames = read_clip(file, settings["fps"], settings["num_frames"], settings["cut"], settings["pad"])
    return to_model(resize(frames, settings["height"], settings["width"], settings["resize"]))


def _encode(video: Tensor, encoder: VideoEncoder, settings: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return encoder.encode_video(video)[0].to(_DTYPES[settings["dtype"]])


def add_rows(bank: MemoryBank, rows: Sequence[Row], latents: Callable[[Row], Tensor], progress: bool) -> BuildReport:
    """Add ``latents(row)`` [C, T, H, W] for each row that the bank lacks, in order, committing every half minute.

    A row for which that raises becomes a `BadItem`; a `BankError` and a full disk end the run. Call it inside
    ``with bank``.
    """
    added: list[str] = []
    present: list[str] = []
    bad: list[BadItem] = []
    known = {id: texts for id, *texts in zip(bank.ids, bank.captions, bank.sources, strict=True)}
    committed = time.monotonic()
    for row in tqdm(rows, desc="adding", unit="clip", disable=not progress):
        if row.id in known:
            if known[row.id] == [row.caption, row.source]:
                present.append(row.id)
            else:
                reason = f"{row.id!r} is in the bank with another caption or source; give it another id"
                bad.append(BadItem(row.line, row.id, reason))
            continue
        try:
            bank.add(row.id, latents(row), row.caption, row.source)
        except Exception as error:  # what decoders and models raise has no end of types
            bad.append(BadItem(row.line, row.id, reason_of(error)))
            continue
        added.append(row.id)
        if time.monotonic() - committed > COMMIT_SECONDS:
            bank.flush()
            committed = time.monotonic()
    return BuildReport(added, present, bad)


def bank_for(out: Path, settings: dict[str, Any], notes: dict[str, Any] | None = None) -> MemoryBank:
    """The bank at ``out``, or a new one whose info has the settings and ``notes``.

    Raises `BankError` if ``out`` was built with other settings.
    """
    if not (out / "bank.json").exists():
        return MemoryBank.create(out, settings | (notes or {}))
    bank = MemoryBank.open(out)
    for name, value in settings.items():
        if bank.info.get(name) != value:
            raise BankError(
                f"The bank {out} was made with {name} {bank.info.get(name)!r}, not {value!r}; "
                f"use that, or build another bank."
            )
    return bank
