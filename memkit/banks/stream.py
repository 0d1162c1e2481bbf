"""`ClipStream`: the clips of an export (`memkit.banks.tar_shards`), read from beginning to end for training.

Each clip comes exactly once per epoch, over all workers of all processes. In an epoch the shards, and the clips within
a shard, have an order that depends on the seed and the epoch alone; every worker of every process takes one run of that
sequence, so that the shares differ by one clip at most and each worker opens few shards.
"""

from __future__ import annotations

import os
import random
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch.utils.data import IterableDataset, get_worker_info

from memkit.banks.clip import Clip
from memkit.banks.entries import Entry
from memkit.banks.parallel import rank_and_world
from memkit.banks.remote import RemoteFiles, is_url
from memkit.banks.tar_shards import REMEDY, ROWS, read_shards
from memkit.cameras.cameras import Cameras
from memkit.checks import check_whole
from memkit.errors import BankError, InputError
from memkit.files.json_files import parse_json, read_log


class ClipStream(IterableDataset[Clip]):
    """The clips of an export, for a ``DataLoader``.

        stream = ClipStream("s3://bucket/clips", seed=0)
        loader = DataLoader(stream, batch_size=4, num_workers=2, collate_fn=list)
        for epoch in range(10):
            stream.set_epoch(epoch)
            for clips in loader:
                latents, cameras = stack_clips(clips)

    Each process of a launch (``torchrun``, ``accelerate launch``) takes its share by itself: do not pass the loader to
    ``accelerator.prepare``, which would divide it once more. Shares differ by one clip where the number of clips is no
    multiple of the number of processes.

    Args:
        path: folder of the export, or its URL, which is read through fsspec.
        seed: of the order; None keeps that of the export.
        rank: number of this process; by default those of ``torch.distributed`` or, before it is initialised, of the
            environment variables ``RANK`` and ``WORLD_SIZE``.
        world: number of processes.
        storage_options: of fsspec's file system, for a URL.

    Raises:
        BankError: there is no export, it is not complete, or it is damaged: here, or where a clip is read.
        InputError: an argument cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        seed: int | None = 0,
        rank: int | None = None,
        world: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if seed is not None:
            check_whole("seed", seed)
        if (rank is None) != (world is None):
            raise InputError(f"rank is {rank} and world {world}; give both, or neither.")
        if rank is not None and world is not None:
            check_whole("world", world, 1)
            check_whole("rank", rank, 0, world - 1)
        if storage_options is not None and not is_url(path):
            raise InputError(f"storage_options are for a URL, such as s3://bucket/clips, and {path} is a local path.")
        self._files: RemoteFiles | Path = (
            RemoteFiles(os.fspath(path), storage_options or {}) if is_url(path) else Path(path)
        )
        self._seed, self._rank, self._world = seed, rank, world
        header, self._shards = read_shards(self._rows(), f"{self._name}/{ROWS}")
        self.info: dict[str, Any] = header["info"]
        """The info of the bank."""
        self.fingerprint: str = header["fingerprint"]
        """That of the bank."""
        self._count: int = header["clips"]
        self._before = [0, *accumulate(len(shard.clips) for shard in self._shards)]
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that stay alive see it change

    def __len__(self) -> int:
        """Number of clips of this process per epoch."""
        rank, world = self._place()
        return self._count * (rank + 1) // world - self._count * rank // world

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends, before a loader is iterated; its workers may be persistent."""
        check_whole("epoch", epoch)
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Clip]:
        """The clips of this worker of this process."""
        (rank, world), worker = self._place(), get_worker_info()
        place, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first, last = (self._count * n // world for n in (rank, rank + 1))
        start, end = (first + (last - first) * n // of for n in (place, place + 1))
        begin = 0
        for number in self._order("shards", len(self._shards)):
            count = len(self._shards[number].clips)
            if wanted := self._order(f"shard {number}", count)[max(0, start - begin) : max(0, end - begin)]:
                yield from self._read(number, wanted)
            begin += count

    @property
    def _name(self) -> str:
        return self._files.url if isinstance(self._files, RemoteFiles) else str(self._files)

    def _place(self) -> tuple[int, int]:
        if self._rank is not None and self._world is not None:
            return self._rank, self._world
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return rank_and_world()

    def _order(self, what: str, count: int) -> list[int]:
        order = list(range(count))
        if self._seed is not None:
            random.Random(f"{self._seed}/{int(self._epoch)}/{what}").shuffle(order)
        return order

    def _rows(self) -> list[dict[str, Any]]:
        remedy = f"check the path, or {REMEDY}"
        with tempfile.TemporaryDirectory() as copy:
            folder = self._files if isinstance(self._files, Path) else Path(copy)
            if isinstance(self._files, RemoteFiles):
                self._files.copy(ROWS, folder / ROWS)
            try:
                return read_log(folder / ROWS, remedy)
            except InputError as error:
                raise BankError(str(error).replace(copy, self._name)) from error

    def _read(self, number: int, wanted: list[int]) -> Iterator[Clip]:
        """Some clips of a shard, by their places in it, in the order of the list; it is read from its beginning."""
        shard, before = self._shards[number], self._before[number]
        keep, held = {*wanted}, dict[int, Clip]()
        try:
            with self._open(shard.shard) as file, tarfile.open(fileobj=file, mode="r|") as tar:
                for place in range(max(wanted) + 1):
                    texts, tensors = (_member(tar, f"{before + place:09d}.{kind}") for kind in ("json", "safetensors"))
                    if place in keep:
                        held[place] = _clip(texts, tensors, shard.clips[place])
        except BankError:
            raise
        except Exception as error:  # what a damaged tar leads to has many types
            raise BankError(f"{self._name}/{shard.shard} cannot be read ({error}); {REMEDY}.") from error
        for place in wanted:
            yield held.pop(place)

    def _open(self, name: str) -> AbstractContextManager[BinaryIO]:
        return self._files.open(name) if isinstance(self._files, RemoteFiles) else open(self._files / name, "rb")


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The content of the next member, which must have this name."""
    member = tar.next()
    content = None if member is None or member.name != name else tar.extractfile(member)
    if content is None:
        raise InputError(f"it has {'nothing' if member is None else member.name} in the place of {name}")
    tar.members = []  # or it keeps a list of all
    return content.read()


def _clip(texts: bytes, data: bytes, digits: str) -> Clip:
    """The clip of two members of a shard; `InputError` unless it is the one with these digits of its checksum."""
    entry, tensors = Entry(**parse_json(texts)), safetensors.torch.load(data)
    names = ("latents", "c2w", "intrinsics") if entry.cameras else ("latents",)
    if entry.sha256[: len(digits)] != digits or entry.digest({name: tensors[name] for name in names}) != entry.sha256:
        raise InputError(f"clip {entry.id!r} does not match its checksum")
    cameras = Cameras(tensors["c2w"], tensors["intrinsics"]) if entry.cameras else None
    return Clip(entry.id, tensors["latents"], entry.caption, entry.source, cameras)
