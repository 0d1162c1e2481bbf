"""Manifest: the append-only list of a bank's shards and clips.

A commit has three steps, each on the disk before the next: the shard, its line in the manifest, and the header, which
states how far the manifest goes (`memkit.banks.header`). The newline at the end of the line is the commit: readers
ignore a last line without one, as of an interrupted write. A committed shard is never touched again, so that readers
need no lock and an append costs the same at any size.

What an interrupted commit leaves behind is harmless: a shard that no line names, or a torn line, is replaced by the
next commit, and lines beyond those that the header states are committed, because their shards were there before them.
What no interruption leaves is refused: a manifest that is shorter than its header states or differs from it, and later
shards that no line names. A bank whose header states nothing was written by an earlier memkit; its next writer adds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memkit.banks.entries import Entry, Shard, from_line, shard_name, to_line
from memkit.banks.header import HEADER, LINES, REMEDY, Committed, new_header, read_header
from memkit.banks.shards import Shards
from memkit.banks.writer_lock import WriterLock
from memkit.errors import BankError, InputError
from memkit.files.atomic import atomic_write, remove_abandoned, sync_folder, writing

JOINING = "joining"
"""An empty folder that is there while `memkit.banks.join_banks` adds shards, before the lines that name them."""


class Manifest:
    """What is committed: ``entries`` by id in the order in which they were added, and ``shards`` by number."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.name = str(path)  # as messages call the bank
        self.info = info
        self.entries: dict[str, Entry] = {}
        self.shards: list[Shard] = []
        self.stored: Shards = Shards(path)
        self.lock = WriterLock(path)
        self._file = path / LINES
        self._offset = 0  # end of the last committed line
        self._digest = hashlib.sha256()  # of the file up to there
        self._stated: Committed | None = None  # in the header, when it was last read

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> Manifest:
        """The header, an empty list and an empty folder of shards."""
        try:
            info = json.loads(json.dumps(info, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"The info of a bank must be plain JSON: {error}.") from error
        if not isinstance(info, dict):
            raise InputError(f"The info of a bank must be a dictionary, not {type(info).__name__}.")
        manifest = cls(path, info)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_taken(path)
            manifest.lock.acquire()
            try:
                _refuse_taken(path)  # another process may have come first
                (path / "shards").mkdir(exist_ok=True)
                with atomic_write(manifest._file):
                    pass
                sync_folder(path)
                with new_header(path, info, Committed(0, 0, manifest._digest.hexdigest())):
                    pass  # the header makes it a bank
                sync_folder(path)
                sync_folder(path.parent)
            finally:
                manifest.lock.release()
        except (OSError, ValueError) as error:
            raise BankError(f"Cannot create a bank at {path} ({error}); give a folder that can be written.") from error
        return manifest

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """What is committed at ``path`` now."""
        manifest = cls(path, read_header(path)[0])
        manifest.read()
        if not manifest.is_stated:  # a writer is between a line and the header, or was killed there
            remove_abandoned(path / HEADER)
        return manifest

    def read(self) -> None:
        """Read the lines that were committed since the last call, and compare what the header states with the file."""
        info, stated = read_header(self.path)  # before the lines: a writer writes it after them
        data, digest = self._read_file(stated)
        whole = data[: data.rfind(b"\n") + 1]
        differs = stated and (self._offset + len(whole) < stated.bytes or digest != stated.sha256)
        if info != self.info or (differs and self.shards):
            raise BankError(f"{self.path} was replaced or damaged while it was open; open it again.")
        added = self._parsed(whole, stated)
        if stated and differs:
            raise BankError(
                f"{self._file} is damaged: {HEADER} states {stated.lines} lines ({stated.bytes:,} bytes), and the file "
                f"has {len(added)} ({len(whole):,} bytes), or lines that differ. Nothing is written to the bank until "
                f"that is mended; {REMEDY}."
            )
        for shard, entries in added:
            self.shards.append(shard)
            self.entries.update((entry.id, entry) for entry in entries)
        self._offset += len(whole)
        self._digest.update(whole)
        self._stated = stated

    @contextlib.contextmanager
    def writing(self, keep: bool) -> Iterator[None]:
        """Hold the lock, with the manifest read to its end; with ``keep`` beyond the block, until it is released.

        Raises `BankError` where another process writes, or this one was forked from the one that does.
        """
        if self.lock.held and not self.lock.inherited:
            yield
            return
        self.lock.acquire()
        try:
            self.read()
            self.settle()
            yield
        finally:
            if not keep:
                self.lock.release()

    def append(self, shard: Shard, entries: Sequence[Entry]) -> None:
        """Commit a written shard with its clips, replacing a torn last line. The caller holds the lock."""
        self._commit([(shard, entries)], self._write_line)

    def extend(self, added: Sequence[tuple[Shard, Sequence[Entry]]]) -> None:
        """Commit several written shards, all or none of them. The caller holds the lock."""
        self._commit(added, self._write_anew)

    @property
    def is_stated(self) -> bool:
        """Whether the header stated all lines when it was last read."""
        return self._stated is not None and self._stated.bytes >= self._offset

    def settle(self) -> None:
        """Finish, or remove, what a writer has left that was killed. The lock is held, and all lines are read."""
        try:
            if not self.is_stated:
                committed = Committed(len(self.shards), self._offset, self._digest.hexdigest())
                with new_header(self.path, self.info, committed):
                    pass
            if (self.path / JOINING).exists():
                for name in self.stored.orphans(len(self.shards)):
                    if name.removesuffix(".safetensors").isdecimal():
                        (self.path / "shards" / name).unlink()
                for partial in (*self.path.glob(f".{LINES}*.partial"), *self.path.glob("shards/.*.partial")):
                    partial.unlink()
                shutil.rmtree(self.path / JOINING)
        except OSError as error:
            raise BankError(
                f"Cannot write to {self.path} ({error}); give the bank a place that can be written."
            ) from error

    def again(self) -> Manifest:
        """What is committed now, read anew."""
        return Manifest.open(self.path)

    def orphans(self) -> tuple[list[str], list[str]]:
        """Shards that no line names: those that the next commit replaces or removes, and others.

        Raises `BankError` if the manifest on the disk is damaged, or not the one that was read here.
        """
        there = self.stored.orphans(len(self.shards))  # in this order, so that commits meanwhile do not matter
        joining = (self.path / JOINING).exists()
        now = self.again()
        if list(now.entries.values())[: len(self.entries)] != list(self.entries.values()):
            raise BankError(f"{self.name} was replaced while it was open; open it again.")
        unnamed = set(there) - {shard.name for shard in now.shards}
        left = unnamed if joining else unnamed & {shard_name(len(now.shards))}
        return sorted(left), sorted(unnamed - left)

    def _read_file(self, stated: Committed | None) -> tuple[bytes, str]:
        """What follows the lines that were read before, and the digest of as much of the file as the header states."""
        try:
            with open(self._file, "rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    raise BankError(f"{self.path} was replaced while it was open; open it again.")
                file.seek(self._offset)
                data = file.read()
                digest = self._digest.copy()
                if stated and stated.bytes < self._offset:  # the last lines were read before their header was written
                    file.seek(0)
                    digest = hashlib.sha256(file.read(stated.bytes))
                elif stated:
                    digest.update(data[: stated.bytes - self._offset])
        except OSError as error:
            raise BankError(f"{self._file} cannot be read ({error}); {REMEDY}.") from error
        return data, digest.hexdigest()

    def _parsed(self, lines: bytes, stated: Committed | None) -> list[tuple[Shard, list[Entry]]]:
        """The shards and clips of whole lines that follow those that were read before."""
        added: list[tuple[Shard, list[Entry]]] = []
        new: set[str] = set()
        for number, line in enumerate(lines.split(b"\n")[:-1], len(self.shards)):
            try:
                shard, entries = from_line(line, number)
                for entry in entries:
                    if entry.id in new or entry.id in self.entries:
                        raise ValueError(f"it repeats the id {entry.id!r}")
                    new.add(entry.id)
                if stated and number >= stated.lines and not self._is_there(shard):
                    raise ValueError(f"there is no shard {shard.name} of {shard.bytes} bytes")
            except ValueError as error:  # FileError is one
                raise BankError(f"Line {number + 1} of {self._file} is damaged ({error}); {REMEDY}.") from error
            added.append((shard, entries))
        return added

    def _is_there(self, shard: Shard) -> bool:
        file = self.path / "shards" / shard.name
        return file.is_file() and file.stat().st_size == shard.bytes

    def _commit(self, added: Sequence[tuple[Shard, Sequence[Entry]]], write: Callable[[bytes], None]) -> None:
        lines = b"".join(to_line(*each) for each in added)
        digest = self._digest.copy()
        digest.update(lines)
        after = Committed(len(self.shards) + len(added), self._offset + len(lines), digest.hexdigest())
        try:
            with new_header(self.path, self.info, after), writing(self._file):
                write(lines)
        except OSError:
            with contextlib.suppress(OSError, BankError):
                if read_header(self.path)[1] != after:
                    os.truncate(self._file, self._offset)
            raise
        for shard, entries in added:
            number = len(self.shards)
            self.entries.update((entry.id, replace(entry, shard=number)) for entry in entries)
            self.shards.append(shard)
        self._offset, self._digest, self._stated = after.bytes, digest, after

    def _write_line(self, line: bytes) -> None:
        with open(self._file, "r+b") as file:
            file.seek(self._offset)
            file.write(line)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    def _write_anew(self, lines: bytes) -> None:
        with open(self._file, "rb") as file, atomic_write(self._file) as partial:
            partial.write_bytes(file.read(self._offset) + lines)
        sync_folder(self.path)  # before the header, which states these lines


def _refuse_taken(path: Path) -> None:
    if (path / HEADER).exists():
        raise BankError(f"There is a bank at {path} already; open it, or create one at another path.")
    ours = {".lock", LINES, "shards"}  # may be there from an interrupted create
    if other := sorted(p.name for p in path.iterdir() if p.name not in ours and p.suffix != ".partial"):
        raise BankError(f"{path} is not empty (it holds {other[0]!r}); create the bank at another path.")
    lines = path / LINES
    if (lines.exists() and lines.stat().st_size) or any((path / "shards").glob("*.safetensors")):
        raise BankError(
            f"{path} holds the clips of a bank that has lost its {HEADER}; restore that from a copy, or create the "
            "bank at another path."
        )
