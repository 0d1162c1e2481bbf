"""Files that appear whole or not at all, whoever else writes them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import platform
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memkit.errors import FileError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place beside ``path`` to write to; at the end of the ``with`` it is on the disk and takes the file's name.

        with atomic_write("run/log.json") as partial:
            partial.write_text(text)

    Until then, and after an error inside, what had the name before has it still. The place is this call's own: of
    processes that write one file at a time, the last to end wins, with a whole file. What processes of this machine
    that were killed have left of the same file is removed. The file gets the permissions of any new file of the user,
    also where the block writes through a library that gives it others. What the block raises comes out of the
    ``with``, an `OSError` as `FileError`.

    Raises:
        FileError: the file cannot be written: there is no such folder, no access, or the disk is full.
    """
    path = Path(path)
    if not path.name:
        raise FileError(f"Cannot write {str(path)!r}: it names no file; give the name of one.")
    partial = path.with_name(f"{_start(path)}{os.getpid()}-{secrets.token_hex(8)}.partial")
    with writing(path):
        mode = _create(partial)
        try:
            yield partial
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())  # or a crash of the machine could leave the name to an empty file
            os.chmod(partial, mode)
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):  # it is gone already
                partial.unlink()
    remove_abandoned(path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; `FileError` where it cannot be written."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, an `OSError`, or a null byte in ``path``, becomes a `FileError` that names ``path``."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise FileError(f"Cannot write {path} ({why}); give a place that can be written and has room.") from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise FileError(f"Cannot write {path!r}, whose name has a null byte; give another name.") from error


@contextmanager
def reading(path: str | os.PathLike[str], remedy: str) -> Iterator[None]:
    """Inside, an `OSError` becomes a `FileError` that names ``path`` and ends in ``remedy``."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileError(f"There is no {path}; {remedy}.") from error
    except OSError as error:
        if isinstance(error, FileError) and str(path) in str(error):  # it says all that there is to say
            raise
        why = error.strerror or str(error).removesuffix(".")
        raise FileError(f"{path} cannot be read or is damaged ({why}); {remedy}.") from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise FileError(f"There is no {path!r}, whose name has a null byte; {remedy}.") from error


def _create(partial: Path) -> int:
    """Make the file, never through a link that someone has put there; its permissions, which the umask decides."""
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.stat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def hash_files(*files: Path) -> str:
    """SHA-256 of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while part := opened.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder; nothing where folders cannot be synced, as on Windows."""
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_abandoned(path: Path) -> None:
    """Remove what calls of `atomic_write` for ``path`` have left whose processes have ended."""
    start = _start(path)
    for name in glob.glob(f"{glob.escape(start)}*.partial", root_dir=path.parent):
        import psutil  # only here: leftovers are rare

        pid = name.removeprefix(start).split("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):  # another process was faster
                path.with_name(name).unlink()


def _start(path: Path) -> str:
    """How the names begin of what this machine writes to in the place of a file."""
    return f".{path.name[:40]}.{zlib.crc32(platform.node().encode()):08x}-"
