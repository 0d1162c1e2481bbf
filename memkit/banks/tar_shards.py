"""`export_tar`: a bank as WebDataset shards, which are tar files read from beginning to end.

Tar rather than Lance: training reads every clip once per epoch, whole, so that there is nothing for a columnar format
to leave out; sequential reads of large files are what object stores and disks are fastest at; and any program reads a
tar. On disk::

    shards.jsonl             its first row states what was exported; each other row is a shard that is complete
    000000.tar               per clip NNNNNNNNN.json (id, caption, source, …, checksum) and NNNNNNNNN.safetensors
    000001.tar …

Equal banks give equal bytes. An export that was stopped goes on when the call is repeated; until its last row is there,
`memkit.banks.stream.ClipStream` refuses the folder.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from memkit.banks.bank import MemoryBank
from memkit.banks.clip import Clip
from memkit.banks.entries import checked
from memkit.banks.writer_lock import WriterLock
from memkit.checks import check_whole
from memkit.errors import BankError, InputError
from memkit.files.atomic import atomic_write, hash_files, sync_folder, write_text, writing
from memkit.files.json_files import append_row, line_of, read_log

FORMAT, VERSION = "memkit-tar", 1
ROWS = "shards.jsonl"
SHARD_BYTES = 256 * 2**20
DIGITS = 16
"""Of a clip's SHA-256 in the row of its shard; all 64 are in the clip's JSON."""
REMEDY = "export the bank again"


class TarShard(NamedTuple):
    """A tar file, as its row states it."""

    shard: str
    bytes: int
    sha256: str
    clips: list[str]
    """The first digits of the checksum of each clip."""


def export_tar(
    bank: MemoryBank, out: str | os.PathLike[str], shard_bytes: int = SHARD_BYTES, seed: int | None = None
) -> int:
    """Write the clips of a bank as WebDataset shards into the folder ``out``; returns the number of shards.

    Args:
        bank: the bank, local or at a URL.
        out: a new folder, or one in which an export of the same bank with the same settings was stopped.
        shard_bytes: bytes of latents at which a shard ends. A reader holds one shard in memory.
        seed: of a random order of the clips; None keeps that of the bank. A stream shuffles the shards, and the clips
            within a shard; give a seed where clips of one video follow each other.

    Raises:
        BankError: the folder has another export or other files, or another process writes to it.
        InputError: the bank is empty, or a setting cannot be used; as `FileError`, the folder cannot be written.
    """
    check_whole("shard_bytes", shard_bytes, 1)
    out, plan = Path(out), _plan(bank, shard_bytes, seed)
    header = {"format": FORMAT, "version": VERSION, "fingerprint": bank.fingerprint, "info": bank.info}
    header |= {"shard_bytes": shard_bytes, "seed": seed, "clips": len(bank), "shards": len(plan)}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(out)
    lock.acquire()
    try:
        first = 0
        for number, (ids, done) in enumerate(zip(plan, _done(out, header, len(plan)), strict=True)):
            if not done:
                shard = _write(out / f"{number:06d}.tar", first, map(bank.clip, ids))
                sync_folder(out)
                append_row(out / ROWS, shard._asdict())
            first += len(ids)
    finally:
        lock.release()
    return len(plan)


def read_shards(rows: Sequence[dict[str, Any]], name: str) -> tuple[dict[str, Any], list[TarShard]]:
    """The header and the shards of the rows of an export; `BankError` where it is none, or is not complete."""
    header = rows[0] if rows else {}
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
        raise BankError(f"{name} is no {FORMAT} of version {VERSION}; {REMEDY}.")
    try:
        shards = [TarShard(**row) for row in rows[1:]]
        count = sum(len(shard.clips) for shard in shards)
    except TypeError as error:
        raise BankError(f"{name} is damaged ({error}); {REMEDY}.") from error
    if (len(shards), count) != (header["shards"], header["clips"]):
        raise BankError(
            f"{name} has {len(shards)} of {header['shards']} shards; repeat the export, which goes on from there."
        )
    return header, shards


def _plan(bank: MemoryBank, shard_bytes: int, seed: int | None) -> list[list[str]]:
    """The ids of each shard."""
    kinds = zip(bank.ids, bank.shapes, bank.dtypes, strict=True)
    order = [(id, math.prod(shape) * dtype.itemsize) for id, shape, dtype in kinds]
    if not order:
        raise InputError(f"{bank!r} has no clip that could be exported; add some first.")
    if seed is not None:
        check_whole("seed", seed)
        random.Random(f"{seed}/export").shuffle(order)
    plan, held = [[]], 0
    for id, size in order:
        if held >= shard_bytes:
            plan.append([])
            held = 0
        plan[-1].append(id)
        held += size
    return plan


def _done(out: Path, header: dict[str, Any], count: int) -> list[bool]:
    """Of each shard, whether an earlier call has completed it; begins the list of shards where there is none."""
    if not (out / ROWS).exists():
        if others := sorted(p.name for p in out.iterdir() if p.name != ".lock" and p.suffix != ".partial"):
            raise BankError(f"{out} is not empty (it holds {others[0]!r}); export to another folder.")
        write_text(out / ROWS, line_of(header))
        return [False] * count
    before, *rows = read_log(out / ROWS, REMEDY) or [{}]
    if before != json.loads(json.dumps(header)):
        other = next((name for name in header if before.get(name) != header[name]), "format")
        raise BankError(f"{out} has an export made with another {other}; export to another folder, or remove it.")
    for row in rows:
        file = out / row["shard"]
        if not file.is_file() or file.stat().st_size != row["bytes"]:
            raise BankError(f"{file} is missing or not as {ROWS} states; remove {out}, and {REMEDY}.")
    with writing(out / ROWS):
        whole = (out / ROWS).read_bytes().rfind(b"\n") + 1
        os.truncate(out / ROWS, whole)  # a last line that a kill has cut short
    return [True] * len(rows) + [False] * (count - len(rows))


def _write(file: Path, first: int, clips: Iterator[Clip]) -> TarShard:
    """Write a shard, whose first clip has the number ``first`` in the export."""
    digests = []
    with atomic_write(file) as partial:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, clip in enumerate(clips, first):
                entry, tensors = checked(clip.id, clip.latents, clip.caption, clip.source, clip.cameras)
                digests.append(entry.sha256[:DIGITS])
                _add(tar, f"{number:09d}.json", json.dumps(entry.fields, ensure_ascii=False).encode())
                _add(tar, f"{number:09d}.safetensors", safetensors.torch.save(tensors))
        written = TarShard(file.name, partial.stat().st_size, hash_files(partial), digests)
    return written


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of the year 1970 and of nobody, so that equal clips give equal bytes
    member.size, member.mode = len(data), 0o444
    tar.addfile(member, io.BytesIO(data))
