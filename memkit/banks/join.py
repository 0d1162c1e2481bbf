"""`join_banks`: several banks become one. Shards that can stay as they are get a second name, not a copy.

A shard does not contain its number in the manifest, so that a file of one bank is valid in another. Where the requested
order splits a shard, its clips are read and written again, one shard at a time.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from memkit.banks.bank import SHARD_BYTES, MemoryBank
from memkit.banks.entries import Entry, Shard
from memkit.banks.header import HEADER
from memkit.banks.manifest import JOINING, Manifest
from memkit.banks.shards import Shards
from memkit.errors import BankError, InputError
from memkit.files.atomic import atomic_write, sync_folder


class _Clip(NamedTuple):
    bank: Manifest
    entry: Entry

    @property
    def shard(self) -> tuple[Path, int]:
        return self.bank.path, self.entry.shard


def join_banks(
    parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], order: Sequence[str] | None = None
) -> MemoryBank:
    """Append the clips of the banks ``parts`` to the bank ``out``, which is created if needed.

    ``order`` lists each of their ids once; by default clips stay in the order of the parts. Whole shards are
    hard-linked, or copied where the file system has no hard links: the parts stay intact, take no space twice, and can
    be removed. The clips appear in ``out`` all at once: a call that was killed has changed nothing that a reader sees
    and can be repeated. Clips that ``out`` already has, bit for bit, are skipped.

    Raises `BankError` if the infos of the banks differ, two parts have an id in common, ``out`` has another clip of
    that id, a shard is missing or too short, or ``out`` is being written; `InputError` for an ``order`` of other ids.
    """
    out = Path(out)
    manifests = [Manifest.open(Path(part)) for part in parts]
    if not manifests:
        raise InputError("join_banks() was given no parts; give the folders of one or more banks.")
    info = manifests[0].info
    _same_info(manifests)
    clips = _in_order(_by_id(manifests), order)
    target = Manifest.open(out) if (out / HEADER).exists() else Manifest.create(out, info)
    _same_info([manifests[0], target])
    with target.writing(keep=False):
        new = [clip for clip in clips if not _has(target, clip)]
        try:
            if new:
                _append(target, list(_pieces(new, manifests)))
        except OSError as error:
            raise BankError(f"Cannot join banks into {out} ({error}); it has what it had before.") from error
    return MemoryBank.open(out)


def _same_info(manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    for other in manifests[1:]:
        for name in sorted({*first.info, *other.info}):
            if (name in first.info, first.info.get(name)) != (name in other.info, other.info.get(name)):
                raise BankError(
                    f"{first.path} was made with {name} {first.info.get(name)!r} and {other.path} with "
                    f"{other.info.get(name)!r}; only banks with equal settings can be joined."
                )


def _by_id(manifests: Sequence[Manifest]) -> dict[str, _Clip]:
    clips: dict[str, _Clip] = {}
    for manifest in manifests:
        for id, entry in manifest.entries.items():
            if id in clips:
                raise BankError(
                    f"The id {id!r} is in {clips[id].bank.path} and in {manifest.path}; leave out one of them."
                )
            clips[id] = _Clip(manifest, entry)
    return clips


def _in_order(clips: dict[str, _Clip], order: Sequence[str] | None) -> list[_Clip]:
    if order is None:
        return list(clips.values())
    wanted = dict.fromkeys(order)
    if len(wanted) < len(order):
        raise InputError("The order names an id more than once; name each id of the parts once.")
    if other := next(iter(wanted.keys() ^ clips.keys()), None):
        where = "no part has it" if other in wanted else "the order lacks it"
        raise InputError(f"The order does not fit the parts: {other!r}, {where}; name each id of the parts once.")
    return [clips[id] for id in order]


def _has(target: Manifest, clip: _Clip) -> bool:
    entry = target.entries.get(clip.entry.id)
    if entry is not None and entry.sha256 != clip.entry.sha256:
        raise BankError(
            f"{target.path} and {clip.bank.path} have different clips of the id {entry.id!r}; keep one of them."
        )
    return entry is not None


def _pieces(clips: Sequence[_Clip], manifests: Sequence[Manifest]) -> Iterator[tuple[list[_Clip], bool]]:
    """Cut into what will be a shard: lists of clips, and whether each is a shard already."""
    shards: dict[tuple[Path, int], list[_Clip]] = defaultdict(list)
    for clip in (_Clip(manifest, entry) for manifest in manifests for entry in manifest.entries.values()):
        shards[clip.shard].append(clip)
    loose: list[_Clip] = []
    size = 0
    for shard, run in groupby(clips, key=lambda clip: clip.shard):
        piece = list(run)
        if whole := piece == shards[shard]:
            if loose:
                yield loose, False
            yield piece, True
            loose, size = [], 0
        for clip in [] if whole else piece:
            loose.append(clip)
            size += clip.entry.nbytes
            if size >= SHARD_BYTES:
                yield loose, False
                loose, size = [], 0
    if loose:
        yield loose, False


def _append(target: Manifest, pieces: Sequence[tuple[list[_Clip], bool]]) -> None:
    """Add the shards to ``target`` under its next numbers, then all their lines to its manifest at once.

    If it is killed before the lines are there, the folder `JOINING` tells the next writer to remove the shards.
    """
    Shards(target.path).refuse_orphans(len(target.shards))  # from here on, those that there are come from this call
    (target.path / JOINING).mkdir()
    sync_folder(target.path)
    try:
        shards = [_place(target, len(target.shards) + n, *piece) for n, piece in enumerate(pieces)]
        sync_folder(target.path / "shards")
        target.extend([(shard, [c.entry for c in clips]) for shard, (clips, _) in zip(shards, pieces, strict=True)])
    finally:
        target.read()  # what is committed after an error too, so that only what is not is removed
        target.settle()


def _place(target: Manifest, number: int, clips: list[_Clip], whole: bool) -> Shard:
    bank, entry = clips[0]
    if not whole:
        readers = {clip.bank.path: Shards(clip.bank.path) for clip in clips}
        tensors = {clip.entry.id: readers[clip.bank.path].read(clip.entry) for clip in clips}
        return Shards(target.path).write(number, tensors)
    shard = bank.shards[entry.shard]
    file = bank.path / "shards" / shard.name
    if not file.exists() or file.stat().st_size != shard.bytes:
        raise BankError(f"{file} is missing or not as its manifest says; run verify() on {bank.path}.")
    to = Shards(target.path).place(number)
    _link(file, to)
    return shard._replace(name=to.name)


def _link(file: Path, to: Path) -> None:
    to.unlink(missing_ok=True)  # left by a call that was killed; no committed shard has this name
    try:
        os.link(file, to)
    except OSError:  # the part is on another disk, or the file system has no hard links
        with atomic_write(to) as partial:
            shutil.copyfile(file, partial)
