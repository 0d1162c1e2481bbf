"""Parsers of pose files: ``.npz`` arrays and RealEstate10K's text format."""

from __future__ import annotations

import io
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memkit.cameras.cameras import Cameras
from memkit.cameras.checks import check_rigid
from memkit.errors import InputError

_START = 1 << 16  # characters of a text that tell whether it is of poses
_FEWEST = 5  # numbers in a line: captions have as many at times
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_URL = re.compile(r"https?://\S+|about:blank")
_NUMBERS = 19  # per line of RealEstate10K: time, 4 intrinsics, 2 of distortion, 12 of the pose
LARGEST = 1 << 30
"""Bytes of a pose file, and of the arrays in it: a million frames take less."""


# -- npz ---------------------------------------------------------------------------------------------------------------


def parse_npz(path: Path, data: bytes) -> Cameras:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_sizes(archive)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and numpy have a dozen types for a damaged file
        raise InputError(
            f"{path} is not an .npz of plain arrays ({error}); write it again, without objects."
        ) from error
    if "c2w" not in arrays or ("intrinsics" in arrays) == ("K" in arrays):
        raise InputError(
            f"{path} holds {sorted(arrays)}; it needs c2w and either intrinsics or K (with width and height)."
        )
    c2w = _tensor(path, arrays, "c2w")
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
        raise InputError(f"{path}: c2w is {list(c2w.shape)}; give camera-to-world matrices [F, 4, 4].")
    intrinsics = _tensor(path, arrays, "intrinsics") if "intrinsics" in arrays else _normalised(path, arrays)
    if intrinsics.shape not in ((4,), (len(c2w), 4)):
        raise InputError(
            f"{path}: intrinsics for {len(c2w)} poses must be fx, fy, cx, cy of shape [{len(c2w)}, 4] or [4], not "
            f"{list(intrinsics.shape)}."
        )
    return Cameras(c2w, intrinsics.to(c2w.dtype).expand(len(c2w), 4).contiguous())


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Raises `ValueError` where arrays are larger than `LARGEST`, or than the bytes that are there for them.

    numpy allocates what the header of an array claims before it reads the first number.
    """
    if (total := sum(entry.file_size for entry in archive.infolist())) > LARGEST:
        raise ValueError(f"its arrays have {total:,} bytes, more than {LARGEST:,}")
    for entry in archive.infolist():
        with archive.open(entry) as member:
            if member.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                continue
            version = tuple(member.read(2))
            read_header = _HEADERS.get(version)  # type: ignore[call-overload]
            if read_header is None:
                raise ValueError(f"{entry.filename} is an array of version {version}")
            shape, _, dtype = read_header(member)
            claimed, there = math.prod(shape) * dtype.itemsize, entry.file_size - member.tell()
            if claimed != there and not dtype.hasobject:
                raise ValueError(f"{entry.filename} claims {claimed:,} bytes of numbers and has {there:,}")


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _tensor(path: Path, arrays: dict[str, Any], name: str) -> Tensor:
    array = arrays[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} holds {getattr(array, 'dtype', 'no array')}; give real numbers.")
    return torch.from_numpy(array.astype(np.float32 if array.dtype in (np.float16, np.float32) else np.float64))


def _normalised(path: Path, arrays: dict[str, Any]) -> Tensor:
    """[..., 4] from K [..., 3, 3] in pixels."""
    if not {"width", "height"} <= arrays.keys():
        raise InputError(f"{path} holds K in pixels; it also needs the numbers width and height.")
    sides = [_tensor(path, arrays, name) for name in ("width", "height")]
    if any(side.numel() != 1 or not 0 < float(side) < math.inf for side in sides):
        raise InputError(f"{path}: width and height are {[side.tolist() for side in sides]}; give one number each.")
    k = _tensor(path, arrays, "K").double()
    if k.ndim not in (2, 3) or k.shape[-2:] != (3, 3):
        raise InputError(f"{path}: K is {list(k.shape)}; give [3, 3] or [F, 3, 3].")
    rest = torch.stack([k[..., 0, 1], k[..., 1, 0], k[..., 2, 0], k[..., 2, 1], k[..., 2, 2] - 1], dim=-1)
    if bool((rest != 0).any()):
        raise InputError(f"{path}: K has skew or is not [fx 0 cx; 0 fy cy; 0 0 1]; undistort the images first.")
    width, height = (side.double().squeeze() for side in sides)
    fx, fy, cx, cy = k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]
    if bool(((cx <= 1) & (cy <= 1)).any()) and min(width, height) > 2:
        raise InputError(f"{path}: K is over the image's width and height, not in pixels; write it as intrinsics.")
    off, exchanged = _off_centre(cx, cy, width, height), _off_centre(cx, cy, height, width)
    if (off > 0.3 and exchanged < 0.1) or (off > 0.05 and exchanged < 0.01):
        raise InputError(f"{path}: K is of an image of {height:g}×{width:g} pixels; exchange width and height.")
    return torch.stack([fx / width, fy / height, cx / width, cy / height], dim=-1)


def _off_centre(cx: Tensor, cy: Tensor, width: Tensor, height: Tensor) -> float:
    """How far a principal point is from the centre, in halves of a side."""
    return float(torch.maximum((cx * 2 / width - 1).abs(), (cy * 2 / height - 1).abs()).max())


# -- RealEstate10K -----------------------------------------------------------------------------------------------------


def parse_text(path: Path, data: bytes) -> Cameras:
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text ({error}); give poses in RealEstate10K's format.") from error
    if lines and len(lines[0].split()) == _NUMBERS:
        raise InputError(f"{path}: line 1 is a pose; put the video's URL, or any word, on a line before it.")
    rows = [_row(path, number, line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if not rows:
        raise InputError(f"{path} holds no pose; give a URL on line 1, then one line of {_NUMBERS} numbers per frame.")
    table = torch.tensor(rows, dtype=torch.float64)
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(table), 1, 1)
    c2w[:, :3] = table[:, 7:].view(-1, 3, 4)
    check_rigid(c2w, f"{path} (world to camera)")  # before the inversion, which may fail or hide the error
    return Cameras(torch.linalg.inv(c2w), table[:, 1:5].contiguous())


def _row(path: Path, number: int, line: str) -> list[float]:
    words = line.split()
    try:
        row = [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}; a line has {_NUMBERS} numbers.") from error
    if len(row) != _NUMBERS:
        raise InputError(f"{path}, line {number} has {len(row)} numbers, not {_NUMBERS} (time, intrinsics, pose).")
    if row[5] != 0 or row[6] != 0:
        raise InputError(
            f"{path}, line {number}: the distortion is {words[5]} {words[6]}, not 0 0; undistort the images first."
        )
    return row


def text_of(cameras: Cameras) -> str:
    w2c = torch.linalg.inv(cameras.c2w.double())[:, :3].flatten(1)
    lines = ["about:blank"]
    for number, (intrinsics, pose) in enumerate(zip(cameras.intrinsics.double().tolist(), w2c.tolist(), strict=True)):
        lines.append(" ".join([str(number), *map(repr, intrinsics), "0", "0", *map(repr, pose)]))
    return "\n".join(lines) + "\n"


def has_rows(path: Path) -> bool:
    """Whether a text is of poses, perhaps damaged ones, rather than a caption.

    Poses have many numbers in the first line after that of the URL, most of them whole; or nothing after a URL.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            first, *lines = file.read(_START).split("\n")
    except OSError:
        return False
    words = next((words for line in lines if (words := line.split())), [])
    numbers = sum(_NUMBER.fullmatch(word) is not None for word in words)
    return numbers > max(_FEWEST, 0.6 * len(words)) or (not words and _URL.fullmatch(first.strip()) is not None)
