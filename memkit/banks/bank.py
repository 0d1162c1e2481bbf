"""`MemoryBank`: captioned latent clips in a folder, memory-mapped, appended to safely.

On disk::

    bank.json                header: format, version, the free `info` (model, fps, num_frames, …), what is committed
    clips.jsonl              the manifest: one line per commit with one shard, its checksum and its clips
    shards/000000.safetensors …
    .lock                    held by the one writer

Readers need no lock. `memkit.banks.manifest` explains why a crash loses nothing that was committed, and how a manifest
that was cut or changed is noticed.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.banks.clip import Clip, hint, summary
from memkit.banks.entries import DTYPES, Entry, checked
from memkit.banks.manifest import Manifest
from memkit.banks.remote import RemoteFiles, RemoteManifest, is_url
from memkit.banks.verify import BankReport, verify
from memkit.cameras.cameras import Cameras
from memkit.checks import MOST, check_list, check_whole
from memkit.display import MOST_ROWS, html_table
from memkit.errors import BankError, InputError

SHARD_BYTES = 64 * 2**20


class MemoryBank:
    """Clips on disk, in the order in which they were added; use `create` or `open` to get one.

    Each `add` is committed before it returns. Inside a ``with`` block clips are gathered into shards of ``shard_bytes``
    and committed when a shard is full, by `flush`, and at the end of the block even if it ends in an exception.
    A bank has one writer at a time (another gets a `BankError`) and any number of readers, each of which sees what was
    committed when it opened the bank. Objects are not thread-safe. A process forked inside a ``with`` block that has
    written may read the bank, but gets a `BankError` where it writes: the writer is the process before the fork.
    """

    def __init__(self, manifest: Manifest, shard_bytes: int) -> None:
        self.path = manifest.path
        self._manifest = manifest
        self._shards = manifest.stored
        self._shard_bytes = shard_bytes
        self._pending: dict[str, tuple[Entry, dict[str, Tensor]]] = {}  # gathered, not committed yet
        self._pending_bytes = 0
        self._buffering = False

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], info: dict[str, Any] | None = None, shard_bytes: int = SHARD_BYTES
    ) -> MemoryBank:
        """A new empty bank in the folder ``path``, which is created if needed. ``info`` is anything that JSON can hold.

        Raises `BankError` if there is a bank, or anything else, at ``path`` already.
        """
        _check_bytes(shard_bytes)
        if is_url(path):
            raise InputError(f"A bank is written to a local folder, not to {path}; create it there, then copy it.")
        return cls(Manifest.create(Path(path), {} if info is None else info), shard_bytes)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        shard_bytes: int = SHARD_BYTES,
        storage_options: Mapping[str, Any] | None = None,
    ) -> MemoryBank:
        """The bank at ``path``, to read and append to.

        A URL, such as "s3://bucket/bank", is read through fsspec and cannot be appended to: each clip is fetched as a
        range of its shard when it is read, and compared with its checksum (`memkit.banks.remote`). ``storage_options``
        go to fsspec's file system. The `path` of such a bank is a temporary folder with a copy of its manifest.

        Raises `BankError` if there is no bank, its index is damaged, or the URL cannot be read.
        """
        _check_bytes(shard_bytes)
        if is_url(path):
            return cls(RemoteManifest.fetch(RemoteFiles(os.fspath(path), storage_options or {})), shard_bytes)
        if storage_options is not None:
            raise InputError(f"storage_options are for a URL, such as s3://bucket/bank, and {path} is a local path.")
        return cls(Manifest.open(Path(path)), shard_bytes)

    def __enter__(self) -> MemoryBank:
        self._buffering = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._buffering = False
        if self._manifest.lock.inherited:  # a forked child has nothing of its own to commit
            return
        try:
            self.flush()
        finally:
            self._manifest.lock.release()

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator[Clip]:
        """The clips, in the order in which they were added; each is read when it is reached."""
        return map(self.clip, self.ids)

    def __getitem__(self, key: str | int) -> Clip:
        """The clip of an id, or at a position of the order in which clips were added; negative ones count from the end.

        Raises `InputError` where there is none.
        """
        if isinstance(key, str):
            return self.clip(key)
        check_whole("The position of a clip", key, -MOST)
        position, count = operator.index(key), len(self)
        if not -count <= position < count:
            there = f"give one from {-count} to {count - 1}" if count else "it is empty"
            raise InputError(f"There is no clip at position {position} of {self._manifest.name}; {there}.")
        return self.clip(self.ids[position])

    def __repr__(self) -> str:
        return f"MemoryBank({self._manifest.name!r}: {summary(self._entries().values(), self._manifest.info)})"

    def _repr_html_(self) -> str:
        entries = list(self._entries().values())
        rows = [
            (e.id, e.caption, e.source or "", list(e.shape), "yes" if e.cameras else "") for e in entries[:MOST_ROWS]
        ]
        heading = ["id", "caption", "source", "latents", "cameras"]
        return html_table(repr(self), heading, rows, more=len(entries) - len(rows))

    def __contains__(self, id: object) -> bool:
        return id in self._pending or id in self._manifest.entries

    @property
    def ids(self) -> list[str]:
        """The ids of all clips, in the order in which they were added."""
        return list(self._entries())

    @property
    def captions(self) -> list[str]:
        """The captions, aligned with `ids`."""
        return [entry.caption for entry in self._entries().values()]

    @property
    def sources(self) -> list[str | None]:
        """The source of each clip, aligned with `ids`: clips cut from one video share it."""
        return [entry.source for entry in self._entries().values()]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The latent shape [C, T, H, W] of each clip, aligned with `ids`; no tensor is read."""
        return [tuple(entry.shape) for entry in self._entries().values()]

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The stored dtype of each clip's latents, aligned with `ids`; no tensor is read."""
        return [DTYPES[entry.dtype] for entry in self._entries().values()]

    @property
    def info(self) -> dict[str, Any]:
        """A copy of the free information given to `create`."""
        return json.loads(json.dumps(self._manifest.info))

    @property
    def is_remote(self) -> bool:
        """Whether the bank is at a URL, to be read only."""
        return isinstance(self._manifest, RemoteManifest)

    def digest(self, id: str) -> str:
        """The SHA-256 of a clip: of its texts and all bytes of its tensors, none of which is read."""
        return self._entry(id).sha256

    @property
    def fingerprint(self) -> str:
        """A hash of the info and of all clips in order; it does not depend on how clips were gathered into shards."""
        clips = "".join(entry.sha256 for entry in self._entries().values())
        return hashlib.sha256((json.dumps(self._manifest.info, sort_keys=True) + clips).encode()).hexdigest()

    def add(
        self, id: str, latents: Tensor, caption: str, source: str | None = None, cameras: Cameras | None = None
    ) -> None:
        """Append a clip. Its values are copied and stored in their own dtype (bf16, fp16, fp32 or fp64).

        ``latents`` [C, T, H, W] must be finite; ``cameras`` has one camera per latent frame: c2w [T, 4, 4] and
        intrinsics [T, 4].
        Raises `InputError` naming the id if it is taken or a value cannot be stored, and `BankError` if another process
        is writing or the disk refuses; the bank is then as before.
        """
        entry, tensors = checked(id, latents, caption, source, cameras)
        with self._manifest.writing(keep=self._buffering):
            if id in self:
                raise InputError(f"The id {id!r} is in {self.path} already; give the clip another id.")
            self._pending[id] = entry, tensors
            self._pending_bytes += sum(tensor.nbytes for tensor in tensors.values())
            if not self._buffering:
                try:
                    self._commit()
                finally:
                    self._pending.pop(id, None)
                    self._pending_bytes = 0
            elif self._pending_bytes >= self._shard_bytes:
                self._commit()

    def flush(self) -> None:
        """Commit the clips that a ``with`` block has gathered so far."""
        if self._pending:
            with self._manifest.writing(keep=self._buffering):
                self._commit()

    def clip(self, id: str) -> Clip:
        """One clip; its tensors are copies."""
        entry = self._entry(id)
        tensors = {name: tensor.clone() for name, tensor in self._tensors(entry).items()}
        cameras = Cameras(tensors["c2w"], tensors["intrinsics"]) if entry.cameras else None
        return Clip(id, tensors["latents"], entry.caption, entry.source, cameras)

    def latents(
        self, ids: Sequence[str] | Sequence[Sequence[str]]
    ) -> Float[Tensor, "batch clips channels time height width"]:
        """The latents of some clips [1, N, C, T, H, W], or of a batch of lists of one length [B, N, C, T, H, W].

        For no clips (``[]``) they are ``[1, 0, C, T, H, W]`` with the shape and dtype of the bank's first clip, or
        zero sizes and float32 in an empty bank. Raises `InputError` for an unknown id, lists of unequal length, or
        clips that differ in shape or dtype.
        """
        if isinstance(ids, str):
            raise InputError(f"latents() takes a list of ids; write latents([{ids!r}]).")
        check_list("ids", ids, "ids, or of lists of ids")
        rows = [ids] if all(isinstance(row, str) for row in ids) else ids
        if any(isinstance(row, str) or not isinstance(row, Sequence) or len(row) != len(rows[0]) for row in rows):
            raise InputError("latents() of a batch takes lists of ids of one length; split the batch if they differ.")
        entries = [self._entry(id) for row in rows for id in row]
        for entry in entries:
            if (entry.shape, entry.dtype) != (entries[0].shape, entries[0].dtype):
                raise InputError(
                    f"Clip {entries[0].id!r} is {entries[0].dtype} {tuple(entries[0].shape)} but {entry.id!r} is "
                    f"{entry.dtype} {tuple(entry.shape)}; ask for clips of one shape and dtype, or take each by clip()."
                )
        if entries:
            flat = torch.stack([self._tensors(entry)["latents"] for entry in entries])
        else:
            first = next(iter(self._entries().values()), None)
            shape, dtype = (first.shape, DTYPES[first.dtype]) if first else ([0, 0, 0, 0], torch.float32)
            flat = torch.empty(0, *shape, dtype=dtype)
        return flat.reshape(len(rows), len(rows[0]), *flat.shape[1:])

    def verify(self) -> BankReport:
        """Read every committed shard and compare it with the manifest: size, checksum, shapes, dtypes, finite values.

        The manifest is read again too, and compared with the header. Shards that it does not name are damage, except
        for what an interrupted write has left, which the next one replaces: that is logged as a warning.

        Raises `BankError` with one line per damaged item.
        """
        return verify(self._manifest)

    def _entries(self) -> dict[str, Entry]:
        """All clips, committed or gathered, in order."""
        committed = self._manifest.entries
        return committed | {id: entry for id, (entry, _) in self._pending.items()} if self._pending else committed

    def _entry(self, id: object) -> Entry:
        if not isinstance(id, str):
            raise InputError(f"The ids of clips are texts, and {id!r:.80} is none.")
        if id in self._pending:
            return self._pending[id][0]
        if id not in self._manifest.entries:
            raise InputError(f"There is no clip {id!r} in {self._manifest.name}; {hint(id, self._entries())}")
        return self._manifest.entries[id]

    def _tensors(self, entry: Entry) -> dict[str, Tensor]:
        return self._pending[entry.id][1] if entry.id in self._pending else self._shards.read(entry)

    def _commit(self) -> None:
        """Write the gathered clips as one shard and append its line. The lock is held."""
        if taken := next((id for id in self._pending if id in self._manifest.entries), None):
            raise BankError(f"{self.path} was given {taken!r} since it was gathered here; open the bank again.")
        try:
            shard = self._shards.write(len(self._manifest.shards), {id: t for id, (_, t) in self._pending.items()})
            self._manifest.append(shard, [entry for entry, _ in self._pending.values()])
        except OSError as error:
            raise BankError(f"Cannot write to {self.path} ({error}); what was committed before is safe.") from error
        self._pending.clear()
        self._pending_bytes = 0


def _check_bytes(shard_bytes: int) -> None:
    if type(shard_bytes) is not int or shard_bytes < 1:
        raise InputError(f"shard_bytes is {shard_bytes!r}; give a number of bytes.")
