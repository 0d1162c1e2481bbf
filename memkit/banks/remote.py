"""Banks at a URL, which are read through fsspec: object stores, web servers, archives, memory. They are read-only.

Of a clip, its own bytes are fetched (a range of its shard) each time that it is read, and compared with its checksum:
a clip is a contiguous few megabytes, a shard holds many of them, and retrieval asks for a handful in random order. Only
the header and the manifest are copied, to a temporary folder, when the bank is opened. fsspec's own caches can be put
before a URL: ``filecache::s3://…`` keeps whole shards on the local disk. To read all clips again and again, as in
training, stream them (`memkit.banks.stream`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import safetensors.torch
from torch import Tensor

from memkit.banks.entries import Entry, Shard, shard_name
from memkit.banks.header import HEADER, LINES, read_header
from memkit.banks.manifest import Manifest
from memkit.banks.shards import Shards
from memkit.display import counted
from memkit.errors import BankError, InputError
from memkit.files.json_files import parse_json

_START = 1 << 16  # bytes of a shard that are read for its header, which is longer only in shards of many small clips
_PART = 1 << 24  # bytes per request where a whole file is copied


def is_url(path: object) -> bool:
    """Whether this is a URL, such as "s3://bucket/bank", rather than a local path."""
    return isinstance(path, str) and "://" in path


class RemoteFiles:
    """The files below a URL, with the options of fsspec's file system for it. It may be used after a fork."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self._options = url.rstrip("/"), dict(options)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file from ``start`` to before ``end``."""
        with self._system(name) as (system, path):
            return system.cat_file(path, start=start, end=end)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        with self._system(name) as (system, path):
            return system.size(path) if system.exists(path) else None

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder."""
        with self._system(folder) as (system, path):
            return [name.rstrip("/").rpartition("/")[2] for name in system.ls(path, detail=False)]

    def copy(self, name: str, to: Path) -> None:
        """Copy a file to a local one."""
        size = self.size(name)
        if size is None:
            raise BankError(f"There is no {self.url}/{name}; check the URL, or restore the file from a copy.")
        with to.open("wb") as file:
            for start in range(0, size, _PART):
                file.write(self.read(name, start, min(start + _PART, size)))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file, to be read from its beginning; what the block raises becomes a `BankError` too."""
        with self._system(name) as (system, path), system.open(path, "rb") as file:
            yield file

    @contextmanager
    def _system(self, name: str) -> Iterator[tuple[Any, str]]:
        """The file system, one per process, and the path of a file in it; errors inside become a `BankError`."""
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(self.url, **self._options)
            yield system, f"{root.rstrip('/')}/{name}"
        except BankError:
            raise
        except Exception as error:  # each file system has errors of its own
            why = str(error) or type(error).__name__
            remedy = "check the URL, the access to it, and that the fsspec package for it is installed"
            raise BankError(f"{self.url}/{name} cannot be read ({why}); {remedy}.") from error


class RemoteManifest(Manifest):
    """The manifest of a bank at a URL. ``path`` is the temporary folder of its copy."""

    def __init__(self, path: Path, info: dict[str, Any], files: RemoteFiles) -> None:
        super().__init__(path, info)
        self.name, self.files, self.stored = files.url, files, RemoteShards(path, files, self.shards)

    @classmethod
    def fetch(cls, files: RemoteFiles) -> RemoteManifest:
        """What is committed at the URL now.

        Raises `BankError` if there is no bank, it cannot be read, or its index is damaged.
        """
        folder = Path(tempfile.mkdtemp(prefix="memkit-bank-"))
        try:
            for name in (HEADER, LINES):  # in this order: a writer writes the header last
                files.copy(name, folder / name)
            manifest = cls(folder, read_header(folder)[0], files)
            manifest.read()
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, BankError):
                raise BankError(str(error).replace(str(folder), files.url)) from error
            raise
        weakref.finalize(manifest, _remove, folder, os.getpid())
        return manifest

    @contextmanager
    def writing(self, keep: bool) -> Iterator[NoReturn]:
        """Always raises: objects in a store cannot be appended to, and no lock keeps a second writer away."""
        raise BankError(
            f"{self.name} was opened by its URL, to be read only; write to a local bank, and copy it there."
        )
        yield  # a context manager

    def again(self) -> Manifest:
        return RemoteManifest.fetch(self.files)

    def _is_there(self, shard: Shard) -> bool:
        return self.files.size(f"shards/{shard.name}") == shard.bytes


class RemoteShards(Shards):
    """The shards of a bank at a URL."""

    def __init__(self, path: Path, files: RemoteFiles, shards: list[Shard]) -> None:
        super().__init__(path, files.url)
        self._files, self._sizes = files, shards

    def read(self, entry: Entry) -> dict[str, Tensor]:
        """The tensors of a clip, compared with its checksum each time: each time they travel anew."""
        self._compared.discard((entry.shard, entry.id))
        return super().read(entry)

    def orphans(self, count: int) -> list[str]:
        known = {shard_name(number) for number in range(count)}
        names = self._files.names("shards") if self._files.size("shards") is not None else []
        return sorted(name for name in names if name.endswith(".safetensors") and name not in known)

    def damage(self, number: int, shard: Shard, entries: list[Entry]) -> list[str]:
        """As `Shards.damage`, of a copy of the shard."""
        with tempfile.TemporaryDirectory(prefix="memkit-bank-") as folder:
            (Path(folder) / "shards").mkdir()
            try:
                self._files.copy(f"shards/{shard.name}", Path(folder) / "shards" / shard.name)
            except BankError as error:
                clips = f"{counted(len(entries), 'clip')} from {entries[0].id!r}"
                return [f"shard {shard.name}: {error} (holds {clips})"]
            return Shards(Path(folder)).damage(number, shard, entries)

    def _map(self, number: int) -> Any:
        return _RemoteShard(self._files, f"shards/{shard_name(number)}", self._sizes[number].bytes)


class _RemoteShard:
    """The tensors of a safetensors file at a URL; each is fetched when it is asked for."""

    def __init__(self, files: RemoteFiles, name: str, size: int) -> None:
        self._files, self._name = files, name
        start = files.read(name, 0, min(_START, size))
        self._begin = 8 + int.from_bytes(start[:8], "little")
        if not 8 < self._begin <= size:
            raise BankError(f"{files.url}/{name} cannot be read: it is no safetensors file; run verify().")
        if self._begin > len(start):
            start += files.read(name, len(start), self._begin)
        try:
            self._header: Any = parse_json(start[8 : self._begin])
        except InputError as error:
            raise BankError(f"{files.url}/{name} cannot be read: {error}; run verify().") from error

    def get_tensor(self, key: str) -> Tensor:
        """One tensor; what a damaged header leads to has many types of error, which `Shards` names."""
        start, end = self._header[key]["data_offsets"]
        data = self._files.read(self._name, self._begin + start, self._begin + end)
        header = json.dumps({key: {**self._header[key], "data_offsets": [0, end - start]}}).encode()
        return safetensors.torch.load(len(header).to_bytes(8, "little") + header + data)[key]


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves it to the process that made it
        shutil.rmtree(folder, ignore_errors=True)
