"""The videos of a benchmark on disk: mp4 files, and folders of PNG files. Each appears only when it is complete."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from memkit.errors import FileError, InputError
from memkit.files.atomic import hash_files, writing
from memkit.video.frames import read_video, resize, write_video

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def write_output(place: Path, frames: UInt8[Tensor, "time height width 3"], fps: float) -> None:
    """Write frames to an mp4 file, or for another name to a folder of files ``00000.png``, ``00001.png``, …

    An mp4 has its sides extended to even numbers. A folder that is there is replaced.

    Raises:
        FileError: it cannot be written, as on a full disk.
    """
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".mp4":
        write_video(place, frames, fps)
        return
    from PIL import Image

    partial = place.with_name(f".{place.name}.partial")
    with writing(place):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for number, frame in enumerate(frames.cpu().numpy()):
            Image.fromarray(frame).save(partial / f"{number:05d}.png")
        if place.exists():
            shutil.rmtree(place)
        os.replace(partial, place)


def read_output(place: Path) -> UInt8[Tensor, "time height width 3"]:
    """The frames of an mp4 file, or of a folder of images by name.

    Raises:
        FileError: there are none, or an image cannot be read.
        MediaError: the video cannot be decoded.
    """
    if place.suffix == ".mp4":
        return read_video(place).frames
    return torch.stack([read_image(file) for file in images_in(place)])


def hash_output(place: Path) -> str:
    """SHA-256 of a video file, or of all images of a folder with their names; "" where there is nothing."""
    if place.is_file():
        return hash_files(place)
    if not place.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted(place.iterdir()):
        digest.update(f"{file.name} {hash_files(file)}\n".encode())
    return digest.hexdigest()


def images_in(folder: Path) -> list[Path]:
    """The images of a folder by name. Raises `FileError` where there are none."""
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGES)
    if not found:
        raise FileError(f"{folder} has no images ({', '.join(IMAGES)}); check the folder.")
    return found


def read_image(
    file: Path, height: int | None = None, width: int | None = None
) -> UInt8[Tensor, "oldheight oldwidth 3"]:
    """An image as RGB; with a size, scaled to cover it and cropped in the middle.

    Raises:
        FileError: it cannot be read as an image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileError(f"{file} cannot be read as an image ({error}); replace it.") from error
    if height is None or width is None:
        return pixels
    return resize(pixels[None], height, width)[0]


def check_folder(folder: Path, of: str) -> None:
    """Raise `InputError` unless there is such a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give {of}.")
