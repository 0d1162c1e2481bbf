"""What a file of weights is, by its content rather than its name: the format, and whether it is whole."""

from __future__ import annotations

import os
import zipfile
from typing import Literal

from memkit.errors import InputError

Format = Literal["safetensors", "torch", "gguf"]

_ARCHIVES = ((b"\x1f\x8b", "a gzip archive"), (b"7z\xbc\xaf", "a 7z archive"), (b"Rar!", "a RAR archive"))
_LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""
_DIRECTORY = 0x10  # of the attributes in MS-DOS; torch would return memory as it was in place of such an entry
_FETCH = "download the file again, for example with `hf download`"


def weights_format(path: str | os.PathLike[str]) -> Format:
    """The format of a file of weights.

    Raises:
        InputError: there is no such file, it is cut short, or it is something else: a Git LFS pointer, a web page, an
            archive, text or an empty file. The message says what it is and how to obtain the weights.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else (error.strerror or "no access")
        raise InputError(f"{path} cannot be read: {why}; check the path.") from error
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"PK\x03\x04") or zipfile.is_zipfile(path):
        _check_torch_zip(path)
        return "torch"
    header = int.from_bytes(start[:8], "little")
    if len(start) > 8 and start[8:9] == b"{" and header <= _LONGEST_HEADER:  # its first byte may be that of a pickle
        _check_safetensors_length(path, header, size)
        return "safetensors"
    if start.startswith(b"\x80") or start[257:262] == b"ustar":  # a pickle, or the tar archive of torch before 0.1.10
        return "torch"
    if len(start) > 8 and start[8:9] == b"{" and start[:8] != b"        ":
        raise InputError(f"{path} cannot be read: it is no safetensors file, or its header is damaged; {_FETCH}.")
    raise InputError(f"{path} cannot be read: it {_what_it_is(path, start)}.")


def _what_it_is(path: str | os.PathLike[str], start: bytes) -> str:
    """What else the beginning of a file shows, and the remedy."""
    text = start.lstrip().lower()
    if not start:
        return f"is empty; {_FETCH}"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, a few lines of text in place of the weights; run `git lfs pull`, or " + _FETCH
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"is a web page that was saved under this name; {_FETCH} (on the Hub, the address has /resolve/)"
    for magic, name in _ARCHIVES:
        if start.startswith(magic):
            return f"is {name}; unpack it, and give the file inside"
    if text.startswith((b"{", b"[")):
        return "is JSON text without weights; give the file or the folder that holds the weights"
    if os.fspath(path).endswith((".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".gguf")):
        return f"does not begin as a file of weights does, and is cut short or damaged; {_FETCH}"
    return "is not a file of weights; give a .safetensors, .pt, .pth or .gguf file"


def _check_safetensors_length(path: str | os.PathLike[str], header: int, size: int) -> None:
    if 8 + header > size:
        raise InputError(
            f"{path} cannot be read: it is a safetensors file that is cut short ({size:,} bytes, and its header alone "
            f"has {8 + header:,}); {_FETCH}."
        )


def _check_torch_zip(path: str | os.PathLike[str]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile has many types for a damaged archive
        raise InputError(
            f"{path} cannot be read: it is a torch file or zip archive that is cut short or damaged ("
            f"{os.path.getsize(path):,} bytes, without a readable table of contents at its end); {_FETCH}."
        ) from error
    if any(name.endswith("constants.pkl") for name in names):
        raise InputError(f"{path} cannot be read: it is a TorchScript archive, which holds code; give a state dict.")
    if not any(name.endswith("data.pkl") for name in names):
        some = ", ".join(names[:3])
        raise InputError(f"{path} cannot be read: it is a zip archive of {some}; unpack it, and give the file inside.")


def check_torch_checksums(path: str | os.PathLike[str]) -> None:
    """Compare the content of a torch file with the checksums in it; raises `InputError` where they differ.

    Torch itself does not, and would return wrong values from a damaged file. Files in torch's format from before 1.6,
    and those written without checksums, pass.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or entry.external_attr & _DIRECTORY:
                    raise zipfile.BadZipFile(f"{entry.filename} is marked as a folder")
                if not entry.CRC:  # torch.serialization.set_crc32_options(False); or it is empty
                    continue
                with archive.open(entry) as content:  # which compares them itself
                    while content.read(1 << 24):
                        pass
    except Exception as error:  # zipfile has many types for a damaged archive
        raise InputError(f"{path} cannot be read: it is damaged (its content does not fit its checksums).") from error
