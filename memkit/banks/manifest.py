"""Manifest: a bank's header and the append-only list of its shards and clips, with the lock of the one writer.

A shard is written under a temporary name, synced and renamed; then its line is appended to the manifest and synced.
The newline at the end of the line is the commit: readers ignore a last line without one, as of an interrupted write. A
committed shard is never touched again, so that readers need no lock and an append costs the same at any size. What an
interrupted commit leaves behind, a shard or a torn line, is replaced by the next commit.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memkit.banks.shards import DTYPES, Entry, Shard, append_synced, shard_name
from memkit.errors import BankError, InputError
from memkit.files.atomic import atomic_write, sync_folder

FORMAT, VERSION = "memkit-bank", 1


class Manifest:
    """What is committed: ``entries`` by id in the order in which they were added, and ``shards`` by number."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self.entries: dict[str, Entry] = {}
        self.shards: list[Shard] = []
        self._offset = 0  # end of the last committed line
        self._lock: FileLock | None = None
        self._writer: int | None = None  # the process that has taken the lock

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> Manifest:
        """The header, an empty list and an empty folder of shards."""
        try:
            header = json.dumps({"format": FORMAT, "version": VERSION, "info": info}, allow_nan=False, indent=1)
        except (TypeError, ValueError) as error:
            raise InputError(f"The info of a bank must be plain JSON: {error}.") from error
        manifest = cls(path, json.loads(header)["info"])
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_taken(path)
            manifest.lock()
            try:
                _refuse_taken(path)  # another process may have come first
                (path / "shards").mkdir(exist_ok=True)
                for name, content in (("clips.jsonl", ""), ("bank.json", header)):  # the header makes it a bank
                    with atomic_write(path / name) as partial:
                        partial.write_bytes(content.encode())
                sync_folder(path)
                sync_folder(path.parent)
            finally:
                manifest.unlock()
        except OSError as error:
            raise BankError(f"Cannot create a bank at {path} ({error}); give a folder that can be written.") from error
        return manifest

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """What is committed at ``path`` now."""
        try:
            header = json.loads((path / "bank.json").read_bytes())
            name, version, info = header["format"], header["version"], header["info"]
        except OSError as error:
            raise BankError(f"There is no bank at {path}; check the path, or create one there.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BankError(f"{path / 'bank.json'} is damaged; restore it, or build the bank anew.") from error
        if (name, version) != (FORMAT, VERSION):
            raise BankError(f"{path} is of format {name} {version}, not {FORMAT} {VERSION}; use a matching memkit.")
        manifest = cls(path, info)
        manifest.read()
        return manifest

    def read(self) -> None:
        """Read the lines that were committed since the last call."""
        manifest = self.path / "clips.jsonl"
        try:
            with open(manifest, "rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    raise BankError(f"{self.path} was replaced while it was open; open it again.")
                file.seek(self._offset)
                *lines, _torn = file.read().split(b"\n")
        except OSError as error:
            raise BankError(f"{manifest} cannot be read ({error}); restore it, or build the bank anew.") from error
        for line in lines:
            number = len(self.shards)
            try:
                record = json.loads(line)
                shard = Shard(record["shard"], record["bytes"], record["sha256"])
                entries = [Entry(**clip, shard=number) for clip in record["clips"]]
                if shard.name != shard_name(number) or not entries or not {e.dtype for e in entries} <= DTYPES.keys():
                    raise ValueError("it is out of order")
                repeated = [id for id, n in Counter(e.id for e in entries).items() if n > 1 or id in self.entries]
                if repeated:
                    raise ValueError(f"it repeats the id {repeated[0]!r}")
            except (ValueError, KeyError, TypeError) as error:
                where = f"Line {number + 1} of {manifest}"
                raise BankError(f"{where} is damaged ({error}); restore it, or build the bank anew.") from error
            self.shards.append(shard)
            self.entries.update((entry.id, entry) for entry in entries)
            self._offset += len(line) + 1

    @contextlib.contextmanager
    def writing(self, keep: bool) -> Iterator[None]:
        """Hold the lock, with the manifest read to its end; with ``keep`` beyond the block, until `unlock`.

        Raises `BankError` where another process writes, or this one was forked from the one that does.
        """
        if self.inherited:
            raise BankError(
                f"{self.path} was open for writing when this process was forked, and the process that opened it is its "
                "writer; open the bank again in this one, and write when that one is done."
            )
        if self._lock is not None:
            yield
            return
        self.lock()
        try:
            self.read()
            yield
        finally:
            if not keep:
                self.unlock()

    def append(self, shard: Shard, entries: Sequence[Entry]) -> None:
        """Commit a written shard with its clips, replacing a torn last line. The caller holds the lock."""
        record = {"shard": shard.name, "bytes": shard.bytes, "sha256": shard.sha256}
        record["clips"] = [entry.fields for entry in entries]
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        append_synced(self.path / "clips.jsonl", self._offset, line)
        number = len(self.shards)
        self.shards.append(shard)
        self._offset += len(line)
        self.entries.update((entry.id, replace(entry, shard=number)) for entry in entries)

    @property
    def inherited(self) -> bool:
        """Whether the lock was taken before this process was forked: then it is not this one's."""
        return self._lock is not None and self._writer != os.getpid()

    def lock(self) -> None:
        """Become the one writer; raises `BankError` if another process is."""
        lock = FileLock(self.path / ".lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise BankError(
                f"{self.path} is being written by another process; wait until it is done, or write to another bank."
            ) from error
        except OSError as error:
            raise BankError(f"Cannot write to {self.path} ({error}); give a folder that can be written.") from error
        self._lock, self._writer = lock, os.getpid()

    def unlock(self) -> None:
        """Let another process write; nothing where this one does not hold the lock."""
        if self._lock is not None and not self.inherited:
            self._lock.release()
            self._lock = None


def _refuse_taken(path: Path) -> None:
    if (path / "bank.json").exists():
        raise BankError(f"There is a bank at {path} already; open it, or create one at another path.")
    ours = {".lock", "bank.json.tmp", "clips.jsonl", "shards"}  # may be there from an interrupted create
    if other := sorted(p.name for p in path.iterdir() if p.name not in ours and p.suffix != ".partial"):
        raise BankError(f"{path} is not empty (it holds {other[0]!r}); create the bank at another path.")
