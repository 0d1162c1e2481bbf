"""`Shelves`: the slots of one layer, in all places, with what is stored in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from memkit.backbones.rotary import rotate
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.storage.base import Exact, FrameLayout, Frames, Stored
from memkit.injectors.kv_cache.table import SlotTable

Angles = tuple[Tensor, Tensor]
"""Rotary tables (cos, sin), each [1, tokens, 1, D]."""


class Shelves:
    """Preallocated slots: tensors [B, slots, …] of each place, in the form of its storage.

    Those of the first place hold the tokens of one head next to each other in memory, those of others the numbers of
    one frame, which are moved together.

    Args:
        table: which frames are in which slots; it has allocated their numbers.
        frames: keys and values of at least one frame, for the layout of all.
    """

    @torch.inference_mode(False)  # the slots outlive an inference mode in which they are first written
    def __init__(self, parts: CacheParts, table: SlotTable, frames: Frames) -> None:
        self.layout = FrameLayout.of(frames)
        self._parts, self._storages, self._table = parts, tuple(parts.storages()), table
        self._device = frames[0].device
        self.tensors: list[Stored] = []
        assert table.capacities is not None
        for number, (storage, slots) in enumerate(zip(self._storages, table.capacities, strict=True)):
            held = []
            for x in storage.encode(_first(frames)):
                shape = (x.shape[0], slots, *x.shape[2:])
                held.append(parts.spill[number - 1].allocate(shape, x) if number else _by_head(shape, x))
            self.tensors.append(tuple(held))

    @property
    def place_bytes(self) -> tuple[int, ...]:
        """Bytes allocated in each place."""
        return tuple(sum(x.nbytes for x in stored) for stored in self.tensors)

    def read(self, slots: Sequence[int], tables: Angles | None = None) -> list[tuple[int, Frames]]:
        """Keys and values [B, frames, tokens, H, D] of the frames in these slots, on the model's device, in runs of
        one place each, with its number; keys rotated by the ``tables`` of the frames, if there are any."""
        runs, start = [], 0
        for place, stored in self.stored(slots):
            storage, count = self._storages[place], stored[0].shape[1]
            k, v = (x.to(self._device) for x in storage.decode(stored, self.layout))
            if tables is not None:
                own = (x.unflatten(1, (len(slots), -1))[:, start : start + count].to(self._device) for x in tables)
                own = (x.flatten(1, 2) for x in storage.tables(*own))
                k = rotate(k.flatten(1, 2), *own).unflatten(1, (count, -1))
            runs.append((place, (k, v)))
            start += count
        return runs

    def log_weight(self, place: int) -> float:
        """What is added to the logits of the keys of one place."""
        return self._storages[place].log_weight(self.layout)

    def stored(self, slots: Sequence[int]) -> Iterator[tuple[int, Stored]]:
        """What is stored in these slots, in runs of one place: its number, and tensors [B, frames, …]."""
        where = [self._table.place_of(slot) for slot in slots] or [(0, 0)]
        for place, run in groupby(where, key=lambda each: each[0]):
            rows = [row for _, row in run] if slots else []
            yield place, tuple(_taken(x, rows) for x in self.tensors[place])

    @torch.inference_mode(False)
    @torch.no_grad()
    def write(self, slots: Sequence[int], frames: Frames) -> None:
        """Write frames [B, frames, tokens, H, D] to these slots."""
        where = [self._table.place_of(slot) for slot in slots]
        start = 0
        for place, run in groupby(where, key=lambda each: each[0]):
            rows = [row for _, row in run]
            part = slice(start, start := start + len(rows))
            whole = frames if len(rows) == len(slots) else (frames[0][:, part], frames[1][:, part])
            self.put(place, rows, self._storages[place].encode(whole))

    def write_behind(self, slots: Sequence[int], frames: Frames) -> Frames | None:
        """Copy frames to the unused slots behind ``slots`` for a while: until any frame is written.

        Returns them as views, which follow the frames in ``slots`` in memory; or None where these are not next to each
        other in the first place, or have too few unused slots behind them, or are not stored exactly.
        """
        start = slots[-1] + 1
        behind = range(start, start + frames[0].shape[1])
        assert self._table.capacities is not None
        if list(slots) != list(range(slots[0], start)) or behind.stop > self._table.capacities[0]:
            return None
        if self._storages[0] != Exact() or not set(behind).isdisjoint(self._table.slots.values()):
            return None
        k, v = (held[:, behind.start : behind.stop] for held in self.tensors[0])
        return k.copy_(frames[0]), v.copy_(frames[1])

    def put(self, place: int, rows: Sequence[int], stored: Stored) -> None:
        """Write to slots of one place, which are numbered in it, what is stored there already in its form."""
        for held, new in zip(self.tensors[place], stored, strict=True):
            held[:, list(rows)] = new.to(held.device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy frames from slots to slots, all at once; bit for bit between places of one storage."""
        taken = [next(self.stored([old])) for old, _ in moves]
        taken = [(place, tuple(x.clone() for x in stored)) for place, stored in taken]  # these may be views
        ways = [
            (old, stored, *self._table.place_of(slot)) for (old, stored), (_, slot) in zip(taken, moves, strict=True)
        ]
        for (old, place), run in groupby(ways, key=lambda each: (each[0], each[2])):
            for some in self._together(list(run), place):
                stored = tuple(torch.cat(parts, 1) for parts in zip(*(each[1] for each in some), strict=True))
                if self._storages[old] != self._storages[place]:
                    stored = self._storages[place].encode(self._storages[old].decode(stored, self.layout))
                self.put(place, [row for *_, row in some], stored)

    def _together(self, run: list, place: int) -> list[list]:
        """Frames that move to one place, in the units in which it stores them; all by themselves if they are none."""
        unit = self._storages[place].unit
        size = unit if len(run) % unit == 0 else 1
        return [run[i : i + size] for i in range(0, len(run), size)]


def stored_bytes(parts: CacheParts, frames: Sequence[Frames]) -> list[int]:
    """Bytes of one frame in all layers, in each place; ``frames`` of each layer are at least one."""
    return [sum(x.nbytes for pair in frames for x in storage.encode(_first(pair))) for storage in parts.storages()]


def _first(frames: Frames) -> Frames:
    return frames[0][:, :1], frames[1][:, :1]


def _by_head(shape: Sequence[int], like: Tensor) -> Tensor:
    """Memory for a tensor [B, slots, …, H, D], as [B, H, slots, …, D]: attention reads it faster than whole tokens."""
    batch, *between, heads, width = shape
    return like.new_empty(batch, heads, *between, width).movedim(1, -2)


def _taken(x: Tensor, rows: list[int]) -> Tensor:
    """The rows of [B, slots, …, H, D], as a view where they are consecutive, else copied, in the same layout."""
    first = rows[0] if rows else 0
    if rows == list(range(first, first + len(rows))):
        return x[:, first : first + len(rows)]
    chosen = torch.tensor(rows, device=x.device)
    by_head = x.movedim(-2, 1)
    return by_head.index_select(2, chosen).movedim(1, -2) if by_head.is_contiguous() else x.index_select(1, chosen)
