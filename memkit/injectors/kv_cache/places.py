"""Where cached frames are held beyond the first budget: more of the model's device, memory of the CPU, or disk.

A `KVCache` fills its places in order: frames begin on the device, and those with the lowest score move on to the next
place when there is no room. A frame is copied as it is stored, so a place alone changes no bit; a place may also store
its frames more coarsely than the one before. Reading copies frames to the device of the model, without prefetching.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memkit.checks import check_budget, check_whole
from memkit.files.atomic import writing
from memkit.injectors.kv_cache.storage.base import Exact, Storage

_LARGEST_DISK = 2**60
_BLOCK = 2**20


class Place(ABC):
    """One more place for frames, with a budget in bytes, which the branches of a cache share equally."""

    budget_bytes: int
    storage: Storage

    @abstractmethod
    def allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory for a tensor of this shape and of the dtype of ``like``; its content is arbitrary."""


@dataclass(frozen=True)
class OnDevice(Place):
    """More memory of the model's device, for frames in a coarser storage.

    Raises `InputError` for a budget that is not positive, or more than the memory of this machine.
    """

    budget_bytes: int
    storage: Storage = Exact()  # noqa: RUF009

    def __post_init__(self) -> None:
        check_budget("budget_bytes", self.budget_bytes)

    def allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return like.new_empty(tuple(shape))


@dataclass(frozen=True)
class OnCPU(Place):
    """Memory of the CPU; pinned where there is a GPU, so that copies to it are fast.

    Raises `InputError` for a budget that is not positive, or more than the memory of this machine.
    """

    budget_bytes: int
    storage: Storage = Exact()  # noqa: RUF009
    pinned: bool = True

    def __post_init__(self) -> None:
        check_budget("budget_bytes", self.budget_bytes)

    def allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.empty(tuple(shape), dtype=like.dtype, pin_memory=self.pinned and torch.cuda.is_available())


@dataclass(frozen=True)
class OnDisk(Place):
    """Files in ``folder``, mapped into memory: the system reads and writes them as it sees fit.

    They have no names and leave nothing behind, however the process ends; `KVCache.save` writes a session. Their whole
    size is reserved when they are allocated, so that a full disk is an error then.

    Raises:
        InputError: a budget that is not positive.
        FileError: on allocation, the folder cannot be written or has no room.
    """

    budget_bytes: int
    folder: str | Path
    storage: Storage = Exact()  # noqa: RUF009

    def __post_init__(self) -> None:
        check_whole("budget_bytes", self.budget_bytes, 1, _LARGEST_DISK, "bytes")

    def allocate(self, shape: Sequence[int], like: Tensor) -> Tensor:
        size = torch.Size(shape).numel() * like.dtype.itemsize
        with writing(self.folder):
            handle, name = tempfile.mkstemp(prefix="memkit-cache-", dir=self.folder)
            try:
                _reserve(handle, max(size, 1))
                mapped = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
            finally:
                os.close(handle)
                os.unlink(name)
        return mapped.view(like.dtype).view(tuple(shape))


def _reserve(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:  # macOS: a disk that is full later would end the process, so it is filled now
        for _ in range(0, size, _BLOCK):
            os.write(handle, bytes(_BLOCK))
