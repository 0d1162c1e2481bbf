"""`MemoryBank`: captioned latent clips in a folder, memory-mapped, appended to safely.

On disk::

    bank.json                header: format, version and the free `info` (model, fps, num_frames, …)
    clips.jsonl              the manifest: one line a commit = one shard, its checksum and its clips
    shards/000000.safetensors …
    .lock                    held by the one writer

A shard is written under a temporary name, synced and renamed; then its line is appended to the manifest and synced.
The newline that ends the line is the commit: a reader takes a last line without one for an interrupted write and leaves
it out. A committed shard is never touched again: readers need no lock, and an append costs the same at any size.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memkit.cameras import Cameras
from memkit.errors import BankError, InputError

FORMAT, VERSION = "memkit-bank", 1
SHARD_BYTES = 64 * 2**20
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_OPEN_SHARDS = 128  # maps kept open by a reader


@dataclass(frozen=True)
class Clip:
    """One clip of a bank. ``cameras`` holds one camera a latent frame; ``source`` is the video it was cut from."""

    id: str
    latents: Float[Tensor, "channels time height width"]
    caption: str
    source: str | None
    cameras: Cameras | None


class BankReport(NamedTuple):
    """What `MemoryBank.verify` has checked."""

    clips: int
    shards: int
    bytes: int


@dataclass(frozen=True)
class _Entry:
    """A clip in the manifest. ``sha256`` covers every field here and all bytes of its tensors."""

    id: str
    caption: str
    source: str | None
    shape: list[int]
    dtype: str
    cameras: bool
    sha256: str = ""
    shard: int = -1  # not committed yet


class _Shard(NamedTuple):
    name: str
    bytes: int
    sha256: str


class MemoryBank:
    """Clips on disk, in the order in which they were added; make one with `create` or `open`.

    Each `add` is committed before it returns. Inside a ``with`` block clips are gathered into shards of ``shard_bytes``
    and committed as these fill, by `flush`, and at the end of the block, whether or not it ends in an exception.
    A bank has one writer at a time (another gets a `BankError`) and any number of readers, each of which sees what was
    committed when it opened the bank. Objects are not thread-safe.
    """

    def __init__(self, path: Path, info: dict[str, Any], shard_bytes: int) -> None:
        self.path = path
        self._info = info
        self._shard_bytes = shard_bytes
        self._entries: dict[str, _Entry] = {}
        self._shards: list[_Shard] = []
        self._offset = 0  # end of the last committed line of the manifest
        self._pending: dict[str, dict[str, Tensor]] = {}
        self._pending_bytes = 0
        self._buffering = False
        self._lock: int | None = None
        self._open_shard = lru_cache(_OPEN_SHARDS)(self._map_shard)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], info: dict[str, Any] | None = None, shard_bytes: int = SHARD_BYTES
    ) -> MemoryBank:
        """A new empty bank in the folder ``path``, made if missing. ``info`` is anything JSON can hold.

        Raises `BankError` if there is a bank, or anything else, at ``path`` already.
        """
        path = Path(path)
        try:
            header = json.dumps({"format": FORMAT, "version": VERSION, "info": info or {}}, allow_nan=False, indent=1)
        except (TypeError, ValueError) as error:
            raise InputError(f"The info of a bank must be plain JSON: {error}.") from error
        bank = cls(path, json.loads(header)["info"], shard_bytes)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_taken(path)
            with bank._locked():
                _refuse_taken(path)  # another process may have come first
                (path / "shards").mkdir(exist_ok=True)
                _write_synced(path / "clips.jsonl", b"")
                _write_synced(path / "bank.json.tmp", header.encode())
                os.replace(path / "bank.json.tmp", path / "bank.json")
                _sync_folder(path)
                _sync_folder(path.parent)
        except OSError as error:
            raise BankError(f"Cannot create a bank at {path} ({error}); give a folder that can be written.") from error
        return bank

    @classmethod
    def open(cls, path: str | os.PathLike[str], shard_bytes: int = SHARD_BYTES) -> MemoryBank:
        """The bank at ``path``, to read and append to. Raises `BankError` if there is none or its index is damaged."""
        path = Path(path)
        try:
            header = json.loads((path / "bank.json").read_bytes())
            name, version, info = header["format"], header["version"], header["info"]
        except OSError as error:
            raise BankError(f"There is no bank at {path}; check the path, or create one there.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BankError(f"{path / 'bank.json'} is damaged; restore it, or build the bank anew.") from error
        if (name, version) != (FORMAT, VERSION):
            raise BankError(f"{path} is of format {name} {version}, not {FORMAT} {VERSION}; use a matching memkit.")
        bank = cls(path, info, shard_bytes)
        bank._read_manifest()
        return bank

    def __enter__(self) -> MemoryBank:
        self._buffering = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._buffering = False
        try:
            self.flush()
        finally:
            self._release()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    @property
    def ids(self) -> list[str]:
        """The ids of all clips, in the order in which they were added."""
        return list(self._entries)

    @property
    def captions(self) -> list[str]:
        """The captions, aligned with `ids`."""
        return [entry.caption for entry in self._entries.values()]

    @property
    def sources(self) -> list[str | None]:
        """The source of each clip, aligned with `ids`: clips cut from one video share it."""
        return [entry.source for entry in self._entries.values()]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The latent shape [C, T, H, W] of each clip, aligned with `ids`; no tensor is read."""
        return [tuple(entry.shape) for entry in self._entries.values()]

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The stored dtype of each clip's latents, aligned with `ids`; no tensor is read."""
        return [_DTYPES[entry.dtype] for entry in self._entries.values()]

    @property
    def info(self) -> dict[str, Any]:
        """A copy of the free information given to `create`."""
        return json.loads(json.dumps(self._info))

    @property
    def fingerprint(self) -> str:
        """A hash of the info and of all clips in order; it does not depend on how clips were gathered into shards."""
        digest = hashlib.sha256(json.dumps(self._info, sort_keys=True).encode())
        for entry in self._entries.values():
            digest.update(entry.sha256.encode())
        return digest.hexdigest()

    def add(
        self, id: str, latents: Tensor, caption: str, source: str | None = None, cameras: Cameras | None = None
    ) -> None:
        """Append a clip. Its values are copied and stored in their own dtype (bf16, fp16, fp32 or fp64).

        ``latents`` [C, T, H, W], finite; ``cameras`` has one camera a latent frame: c2w [T, 4, 4], intrinsics [T, 4].
        Raises `InputError` naming the id where it is taken or a value cannot be stored, `BankError` where another
        process is writing or the disk refuses; the bank is then as before.
        """
        entry, tensors = _checked(id, latents, caption, source, cameras)
        with self._writing():
            if id in self._entries:
                raise InputError(f"The id {id!r} is in {self.path} already; give the clip another id.")
            self._entries[id], self._pending[id] = entry, tensors
            self._pending_bytes += sum(tensor.nbytes for tensor in tensors.values())
            if not self._buffering:
                try:
                    self._commit()
                except BaseException:
                    self._pending.pop(id, None)
                    self._pending_bytes = 0
                    if self._entries[id].shard < 0:
                        del self._entries[id]
                    raise
            elif self._pending_bytes >= self._shard_bytes:
                self._commit()

    def flush(self) -> None:
        """Commit what a ``with`` block has gathered so far."""
        if self._pending:
            with self._writing():
                self._commit()

    def clip(self, id: str) -> Clip:
        """One clip; its tensors are the caller's own."""
        entry = self._entry(id)
        tensors = {name: tensor.clone() for name, tensor in self._tensors(entry).items()}
        cameras = Cameras(tensors["c2w"], tensors["intrinsics"]) if entry.cameras else None
        return Clip(id, tensors["latents"], entry.caption, entry.source, cameras)

    def latents(
        self, ids: Sequence[str] | Sequence[Sequence[str]]
    ) -> Float[Tensor, "batch clips channels time height width"]:
        """The latents of some clips [1, N, C, T, H, W], or of a batch of equally long lists [B, N, C, T, H, W].

        Of no clips (``[]``) they are ``[1, 0, C, T, H, W]`` with the shape and dtype of the bank's first clip, or zeros
        and float32 in an empty bank. Raises `InputError` for an unknown id, lists of unequal length, or clips that
        differ in shape or dtype.
        """
        if isinstance(ids, str):
            raise InputError(f"latents() takes a list of ids; write latents([{ids!r}]).")
        rows = [ids] if all(isinstance(row, str) for row in ids) else ids
        if any(isinstance(row, str) or len(row) != len(rows[0]) for row in rows):
            raise InputError("latents() of a batch takes lists of ids of one length; split the batch if they differ.")
        entries = [self._entry(str(id)) for row in rows for id in row]
        for entry in entries:
            if (entry.shape, entry.dtype) != (entries[0].shape, entries[0].dtype):
                raise InputError(
                    f"Clip {entries[0].id!r} is {entries[0].dtype} {tuple(entries[0].shape)} but {entry.id!r} is "
                    f"{entry.dtype} {tuple(entry.shape)}; ask for clips of one shape and dtype, or take each by clip()."
                )
        if entries:
            flat = torch.stack([self._tensors(entry)["latents"] for entry in entries])
        else:
            first = next(iter(self._entries.values()), None)
            shape, dtype = (first.shape, _DTYPES[first.dtype]) if first else ([0, 0, 0, 0], torch.float32)
            flat = torch.empty(0, *shape, dtype=dtype)
        return flat.reshape(len(rows), len(rows[0]), *flat.shape[1:])

    def verify(self) -> BankReport:
        """Read every committed shard and compare it with the manifest: size, checksum, shapes, dtypes, finite values.

        Raises `BankError` with one line for each damaged item.
        """
        by_shard: list[list[_Entry]] = [[] for _ in self._shards]
        for entry in self._entries.values():
            if entry.shard >= 0:
                by_shard[entry.shard].append(entry)
        damage = [line for number, entries in enumerate(by_shard) for line in self._damage(number, entries)]
        if damage:
            remedy = "restore these from a copy, or build the bank anew"
            raise BankError(f"{self.path} has {len(damage)} damaged items ({remedy}):\n  " + "\n  ".join(damage))
        return BankReport(sum(map(len, by_shard)), len(self._shards), sum(shard.bytes for shard in self._shards))

    def _damage(self, number: int, entries: list[_Entry]) -> list[str]:
        shard = self._shards[number]
        clips = f"holds {len(entries)} clips from {entries[0].id!r} to {entries[-1].id!r}"
        try:
            with open(self.path / "shards" / shard.name, "rb") as stored:
                digest = hashlib.file_digest(stored, "sha256").hexdigest()
            file = self._map_shard(number)  # not one that is open already: it may show the shard as it was
        except (OSError, BankError) as error:
            return [f"shard {shard.name}: {error} ({clips})"]
        lines = []
        for entry in entries:
            try:
                tensors = self._tensors(entry, file)
            except BankError as error:
                lines.append(f"shard {shard.name}, clip {entry.id!r}: {error}")
                continue
            if _digest(entry, tensors) != entry.sha256:
                lines.append(f"shard {shard.name}, clip {entry.id!r}: it does not match its checksum")
            elif not all(bool(t.isfinite().all()) for t in tensors.values()):
                lines.append(f"shard {shard.name}, clip {entry.id!r}: it has values that are not finite")
        if digest != shard.sha256 and not lines:
            lines.append(f"shard {shard.name}: its header does not match its checksum ({clips})")
        return lines

    def _entry(self, id: str) -> _Entry:
        if id not in self._entries:
            close = difflib.get_close_matches(id, self._entries, n=3)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else "see .ids for those there are."
            raise InputError(f"There is no clip {id!r} in {self.path}; {hint}")
        return self._entries[id]

    def _tensors(self, entry: _Entry, file: safe_open | None = None) -> dict[str, Tensor]:
        if entry.id in self._pending:
            return self._pending[entry.id]
        file = file or self._open_shard(entry.shard)
        names = ("latents", "c2w", "intrinsics") if entry.cameras else ("latents",)
        try:
            tensors = {name: file.get_tensor(f"{entry.id}/{name}") for name in names}
        except SafetensorError as error:
            raise BankError(f"clip {entry.id!r} of {self.path} cannot be read: {error}; run verify().") from error
        latents = tensors["latents"]
        if list(latents.shape) != entry.shape or latents.dtype != _DTYPES[entry.dtype]:
            raise BankError(f"clip {entry.id!r} of {self.path} is not as its manifest says; run verify().")
        return tensors

    def _map_shard(self, number: int) -> safe_open:
        file = self.path / "shards" / self._shards[number].name
        try:
            return safe_open(str(file), "pt")
        except (OSError, SafetensorError) as error:
            raise BankError(f"{file} cannot be read: {error}; run verify().") from error

    def _read_manifest(self) -> None:
        """Take in the lines that were committed since the last time."""
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
            number = len(self._shards)
            try:
                record = json.loads(line)
                shard = _Shard(record["shard"], record["bytes"], record["sha256"])
                entries = [_Entry(**clip, shard=number) for clip in record["clips"]]
                if shard.name != _shard_name(number) or not entries or not {e.dtype for e in entries} <= _DTYPES.keys():
                    raise ValueError("it is out of order")
                repeated = [id for id, n in Counter(e.id for e in entries).items() if n > 1 or id in self._entries]
                if repeated:
                    raise ValueError(f"it repeats the id {repeated[0]!r}")
            except (ValueError, KeyError, TypeError) as error:
                where = f"Line {number + 1} of {manifest}"
                raise BankError(f"{where} is damaged ({error}); restore it, or build the bank anew.") from error
            self._shards.append(shard)
            self._entries.update((entry.id, entry) for entry in entries)
            self._offset += len(line) + 1

    def _commit(self) -> None:
        """Write the gathered clips as one shard and append its line. The lock is held.

        What an interrupted commit leaves, a shard or a torn line, is where the next one writes, which replaces it.
        """
        if not self._pending:
            return
        number = len(self._shards)
        data = safetensors.torch.save({f"{id}/{k}": t for id, clip in self._pending.items() for k, t in clip.items()})
        shard = _Shard(_shard_name(number), len(data), hashlib.sha256(data).hexdigest())
        clips = [_manifest_fields(self._entries[id]) for id in self._pending]
        record = {"shard": shard.name, "bytes": shard.bytes, "sha256": shard.sha256, "clips": clips}
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        folder, manifest = self.path / "shards", self.path / "clips.jsonl"
        try:
            _write_synced(folder / f"{shard.name}.tmp", data)
            os.replace(folder / f"{shard.name}.tmp", folder / shard.name)
            _sync_folder(folder)
            _append_synced(manifest, self._offset, line)
        except OSError as error:
            raise BankError(f"Cannot write to {self.path} ({error}); what was committed before is safe.") from error
        self._shards.append(shard)
        self._offset += len(line)
        self._entries.update((id, replace(self._entries[id], shard=number)) for id in self._pending)
        self._pending.clear()
        self._pending_bytes = 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock with the manifest read to its end; a ``with`` block keeps it from the first add to its end."""
        if self._lock is not None:
            yield
            return
        self._acquire()
        try:
            self._read_manifest()
            yield
        finally:
            if not self._buffering:
                self._release()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._acquire()
        try:
            yield
        finally:
            self._release()

    def _acquire(self) -> None:
        try:
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise BankError(f"Cannot write to {self.path} ({error}); give a folder that can be written.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise BankError(
                f"{self.path} is being written by another process; wait until it is done, or write to another bank."
            ) from error
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # which gives the lock up
            self._lock = None


def _refuse_taken(path: Path) -> None:
    if (path / "bank.json").exists():
        raise BankError(f"There is a bank at {path} already; open it, or create one at another path.")
    ours = {".lock", "bank.json.tmp", "clips.jsonl", "shards"}  # may be there from an interrupted create
    if other := sorted({p.name for p in path.iterdir()} - ours):
        raise BankError(f"{path} is not empty (it holds {other[0]!r}); create the bank at another path.")


def _checked(
    id: str, latents: Tensor, caption: str, source: str | None, cameras: Cameras | None
) -> tuple[_Entry, dict[str, Tensor]]:
    """The manifest entry of a clip and private copies of its tensors, or an `InputError` that names the clip."""
    try:
        f"{id}{caption}{source}".encode()
    except UnicodeEncodeError as error:
        raise InputError(f"A text of clip {id!r} is not valid Unicode ({error}); read its file as UTF-8.") from error
    if not id or not id.isprintable():
        raise InputError(f"{id!r} cannot be the id of a clip; give one or more printable characters.")
    if latents.ndim != 4 or not latents.numel():
        raise InputError(f"Clip {id!r}: latents must be [C, T, H, W] and not empty, not {tuple(latents.shape)}.")
    if latents.dtype not in _DTYPE_NAMES:
        raise InputError(f"Clip {id!r}: latents are {latents.dtype}; convert them to bf16, fp16, fp32 or fp64.")
    tensors = {"latents": latents}
    if cameras is not None:
        tensors |= {"c2w": cameras.c2w, "intrinsics": cameras.intrinsics}
        frames = latents.shape[1]
        if cameras.c2w.shape != (frames, 4, 4) or cameras.intrinsics.shape != (frames, 4):
            raise InputError(
                f"Clip {id!r} has {frames} latent frames but cameras {tuple(cameras.c2w.shape)}; give one to a frame."
            )
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"Clip {id!r}: {name} has values that are not finite; encode it again, or leave it out.")
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    entry = _Entry(id, caption, source, list(latents.shape), _DTYPE_NAMES[latents.dtype], cameras is not None)
    return replace(entry, sha256=_digest(entry, tensors)), tensors


def _digest(entry: _Entry, tensors: dict[str, Tensor]) -> str:
    fields = {name: value for name, value in _manifest_fields(entry).items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _manifest_fields(entry: _Entry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "shard"}


def _shard_name(number: int) -> str:
    return f"{number:06d}.safetensors"


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _append_synced(path: Path, offset: int, line: bytes) -> None:
    """Write a line at the end of what is committed. Where that fails, the file ends there again or in a torn line."""
    with open(path, "r+b") as file:
        file.seek(offset)
        try:
            file.write(line)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, offset)
            raise


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
