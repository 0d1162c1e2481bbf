"""Build a memory bank from a folder of videos and a CSV of captions.

The CSV is that of the DiT-Mem release, UTF-8 with or without a mark, first line the names of its columns:

    video      path of the file inside the folder; also ``video_path`` or ``Video``
    caption    what the clip shows
    id         optional; the id of the clip, by default its path as written
    source     optional; what the clip was cut from, by default the name of its file without folder and suffix;
               retrieval can keep all clips of one source out of a target's memory: give cuts of one film one source.

Other columns (the release's scores) are not used. Nothing is dropped silently: a row or a file that cannot be used is a
`BadItem` of the report, with its reason, and all others are in the bank.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from tqdm import tqdm

from memkit.bank import MemoryBank
from memkit.errors import BankError, InputError, MemkitError
from memkit.video import Cut, Pad, Resize, read_clip, resize, to_model

Dtype = Literal["bf16", "fp16", "fp32"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_COMMIT_SECONDS = 30.0  # at most so much encoding is lost when the process is killed


@runtime_checkable
class Format(Protocol):
    """Size and rate of the videos that a model takes."""

    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fps(self) -> float | int: ...


@runtime_checkable
class VideoEncoder(Protocol):
    """What a bank needs of a backbone: `memkit.backbones.WanCodec`, `WanBackbone`, or anything like them."""

    @property
    def video_format(self) -> Format: ...

    def encode_video(self, video: Tensor) -> Tensor:
        """Latents [1, C, T', H', W'] of a video [1, 3, T, H, W] in [-1, 1], float32 on the CPU."""
        ...


class Row(NamedTuple):
    """A usable row of a caption file. ``file`` is the video; ``line`` is the last line of the row in the file."""

    line: int
    file: Path
    caption: str
    id: str
    source: str


class BadItem(NamedTuple):
    """A row that is not in the bank, and why."""

    line: int
    name: str
    reason: str


class BuildReport(NamedTuple):
    """Ids added by this run, ids that an earlier run had added, and what could not be added."""

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
    fps: float | int | None = None,
    cut: Cut = "start",
    pad: Pad = "hold",
    resize_rule: Resize = "crop",
    dtype: Dtype = "bf16",
    progress: bool = False,
) -> BuildReport:
    """Encode the clips of ``captions``, in the folder ``videos``, into the bank ``out``; go on where a run was stopped.

    Clips keep their speed and proportions; `memkit.video` explains ``cut``, ``pad`` and ``resize_rule``. The format is
    the backbone's where it is not given. ``model`` names the backbone in the bank's info. A clip of Wan at 81×480×832
    takes 4.2 MB in bf16 or fp16 (fp16 keeps three bits more; Wan's latents lie well inside its range), twice that in
    fp32. A bank that exists is added to: ids that it holds are not encoded again.

    Raises `InputError` for a caption file that cannot be read at all, `BankError` where ``out`` was made with another
    model or format, or is being written by another process. Encoded clips are committed every half minute, and at an
    interruption.
    """
    settings = clip_settings(backbone, model, num_frames, height, width, fps, cut, pad, resize_rule, dtype)
    rows, bad = read_captions(captions, videos)
    with bank_for(Path(out), settings) as bank:
        report = add_rows(bank, rows, lambda row: encode_file(row.file, backbone, settings), progress)
    return report._replace(bad=sorted(bad + report.bad))


def clip_settings(
    backbone: VideoEncoder,
    model: str,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | int | None = None,
    cut: Cut = "start",
    pad: Pad = "hold",
    resize_rule: Resize = "crop",
    dtype: Dtype = "bf16",
) -> dict[str, Any]:
    """How `build_bank` makes clips with these arguments, as the info of its bank has it; `InputError` for bad ones."""
    if dtype not in _DTYPES:
        raise InputError(f"There is no dtype {dtype!r}; use one of {', '.join(get_args(Dtype))}.")
    default = backbone.video_format
    shape = {
        "num_frames": default.num_frames if num_frames is None else num_frames,
        "height": default.height if height is None else height,
        "width": default.width if width is None else width,
        "fps": float(default.fps if fps is None else fps),
    }
    if min(shape.values()) <= 0:
        raise InputError(f"A clip needs positive sizes and a positive rate, not {shape}.")
    return {"model": model, **shape, "cut": cut, "pad": pad, "resize": resize_rule, "dtype": dtype}


def encode_file(file: Path, encoder: VideoEncoder, settings: dict[str, Any]) -> Tensor:
    """Latents [C, T, H, W] of a video file; ``settings`` are the arguments of `build_bank` that say how, by name."""
    frames = read_clip(file, settings["fps"], settings["num_frames"], settings["cut"], settings["pad"])
    frames = resize(frames, settings["height"], settings["width"], settings["resize"])
    with torch.no_grad():
        return encoder.encode_video(to_model(frames))[0].to(_DTYPES[settings["dtype"]])


def add_rows(bank: MemoryBank, rows: Sequence[Row], latents: Callable[[Row], Tensor], progress: bool) -> BuildReport:
    """Add to a bank what ``latents`` gives [C, T, H, W] for each row that it lacks, committing every half minute.

    A row for which that raises a `MemkitError` is a `BadItem`; a `BankError` ends the run. Call it in ``with bank``.
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
        except BankError:
            raise
        except MemkitError as error:
            bad.append(BadItem(row.line, row.id, str(error)))
            continue
        added.append(row.id)
        if time.monotonic() - committed > _COMMIT_SECONDS:
            bank.flush()
            committed = time.monotonic()
    return BuildReport(added, present, bad)


def read_captions(path: str | os.PathLike[str], videos: str | os.PathLike[str]) -> tuple[list[Row], list[BadItem]]:
    """The rows of a caption file whose videos are in the folder ``videos``, and those that cannot be used.

    Raises `InputError` where the file as a whole is not a caption file.
    """
    path, videos = Path(path), Path(videos)
    if not videos.is_dir():
        raise InputError(f"There is no folder {videos}; give the folder that holds the videos.")
    rows: list[Row] = []
    bad: list[BadItem] = []
    seen: dict[str, int] = {}
    for line, fields in caption_records(path):
        row = _row(line, fields, videos)
        if isinstance(row, Row) and row.id in seen:
            reason = f"line {seen[row.id]} has the id {row.id!r} already; give each row its own in a column id"
            row = BadItem(line, row.id, reason)
        if isinstance(row, BadItem):
            bad.append(row)
        else:
            rows.append(row)
            seen[row.id] = line
    return rows, bad


def caption_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and fields of each row, as video, caption, id and source; ``extra`` has those without a column.

    Fields are None where a row is too short. Raises `InputError` where the file as a whole is not a caption file.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
            video = next((columns[name] for name in ("video", "video_path") if name in columns), None)
            if video is None or "caption" not in columns:
                found = ", ".join(columns) or "none"
                raise InputError(f"{path} needs the columns video and caption in its first line; it has {found}.")
            names = {"video": video, **{name: columns[name] for name in ("caption", "id", "source") if name in columns}}
            fields: dict[Any, Any]
            for fields in reader:
                extra = fields.get(None)
                yield reader.line_num, {key: fields[name] for key, name in names.items()} | {"extra": extra}
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); give the caption file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file ({error}); put fields with commas in double quotes.") from error


def _row(line: int, fields: dict[str, Any], videos: Path) -> Row | BadItem:
    written = (fields["video"] or "").strip()
    name = written or f"line {line}"
    if fields["extra"]:
        return BadItem(line, name, "it has more fields than columns; put captions with commas in double quotes")
    if not written:
        return BadItem(line, name, "it names no video; fill the column in")
    caption = (fields["caption"] or "").strip()
    if not caption:
        return BadItem(line, name, "its caption is blank; write one, or take the row out")
    # By the letter, not resolved: links that the owner put into the folder may lead anywhere, a row may not.
    relative = os.path.relpath(os.path.normpath(os.path.join(videos, written)), os.path.normpath(videos))
    if relative == os.pardir or relative.startswith(os.pardir + os.sep) or "\0" in written:
        return BadItem(line, name, f"its path leads out of {videos}; give one inside")
    file = videos / relative
    if not file.is_file():
        return BadItem(line, name, f"there is no file {file}")
    id = (fields.get("id") or "").strip() or PurePosixPath(relative).as_posix()
    return Row(line, file, caption, id, (fields.get("source") or "").strip() or file.stem)


def bank_for(out: Path, settings: dict[str, Any], notes: dict[str, Any] | None = None) -> MemoryBank:
    """The bank at ``out`` if it was made with these settings, a new one if there is none; its info has ``notes`` too.

    Raises `BankError` where ``out`` was made with other settings.
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
