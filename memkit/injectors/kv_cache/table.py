"""`SlotTable`: which frame is in which slot, in which layers it is written, and which frames are pinned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import index

from memkit.checks import shown
from memkit.errors import InputError, MemkitError


class BudgetError(MemkitError):
    """The budget of a cache is too small for the frames to be written."""


Order = Callable[[Sequence[int]], Sequence[int]]
"""Sorts positions of frames, those to be evicted first at the front."""


class SlotTable:
    """The bookkeeping of a `SlotCache`, which all its layers share: one slot holds one frame in all layers.

    A frame has a slot from its first write in any layer on; it counts as cached once it is written in all of them.
    Slots are numbered through all places, those of the first place first.
    """

    def __init__(self, budgets: Sequence[int]) -> None:
        self.budgets = tuple(budgets)
        self.layers = 0
        self.capacities: tuple[int, ...] | None = None
        """Number of slots of each place; None until they are allocated."""
        self.bytes_per_frame: tuple[int, ...] = ()
        self.slots: dict[int, int] = {}
        """Slot of each position, also of frames that are not written in all layers yet."""
        self.pinned: set[int] = set()
        self._missing: dict[int, set[int]] = {}  # layers in which a frame is not written yet

    @property
    def capacity(self) -> int | None:
        """Number of slots; None until they are allocated."""
        return None if self.capacities is None else sum(self.capacities)

    def place_of(self, slot: int) -> tuple[int, int]:
        """The number of the place that a slot is in, and of the slot in it."""
        for place, stop in enumerate(accumulate(self.capacities or ())):
            if slot < stop:
                return place, slot - stop + (self.capacities or ())[place]
        raise AssertionError(slot)

    def places(self) -> dict[int, int]:
        """The number of the place that each frame is in."""
        return {p: self.place_of(slot)[0] for p, slot in self.slots.items()}

    def restore(self, places: Mapping[int, int]) -> None:
        """Give the frames at these positions slots in these places, when none is held.

        Raises `BudgetError` where a place has too few.
        """
        start = 0
        for place, capacity in enumerate(self.capacities or ()):
            there = [p for p, where in places.items() if where == place]
            if len(there) > capacity:
                raise BudgetError(
                    f"Place {place} has room for {capacity} frames, not for {len(there)}; raise its budget."
                )
            self.slots.update(zip(there, range(start, start + capacity), strict=False))
            start += capacity
        self._missing.update({p: set(range(self.layers)) for p in places})

    def positions(self, layer: int | None = None) -> tuple[int, ...]:
        """Positions of the frames that are written in this layer, or in all layers, in ascending order."""
        return tuple(sorted(p for p in self.slots if self._has(p, layer)))

    def require(self, positions: Sequence[int], layer: int | None = None) -> tuple[int, ...]:
        """``positions`` as ints. Raises `InputError` unless all are written in this layer, or in all layers."""
        try:
            positions = tuple(index(p) for p in positions)
        except TypeError as error:
            raise InputError(f"Positions are {shown(positions)}; give whole numbers of latent frames.") from error
        if missing := [p for p in positions if not self._has(p, layer)]:
            raise InputError(f"The cache has no frame at {missing}; it holds {list(self.positions(layer))}.")
        return positions

    def _has(self, position: int, layer: int | None) -> bool:
        missing = self._missing.get(position, ())
        return position in self.slots and (not missing if layer is None else layer not in missing)

    def moves_on(self, positions: Sequence[int]) -> bool:
        """Whether frames may have to move on from the first place when these are written."""
        first = (self.capacities or (0,))[0]
        taken = sum(slot < first for slot in self.slots.values())
        return len(self.budgets) > 1 and taken + sum(p not in self.slots for p in positions) > first

    def assign(self, positions: Sequence[int], pin: bool, order: Order = sorted) -> list[tuple[int, int]]:
        """Give each new position a slot, when those that make room for it are dropped already.

        Where a place is full, the frames at the front of ``order`` move on to the next place, pinned ones last; returns
        these moves, from slot to slot, to be done at once before anything is written.
        """
        coming = [p for p in positions if p not in self.slots]
        self._missing.update({p: set(range(self.layers)) for p in coming})
        self.pinned.update(positions if pin else ())
        left, start = {}, 0
        for capacity in self.capacities or ():
            span = range(start, start + capacity)
            there = sorted(p for p, slot in self.slots.items() if slot in span)
            excess = max(0, len(there) + len(coming) - capacity)
            movable = [p for p in order(there) if p not in positions] if excess else []
            leaving = sorted(movable, key=lambda p: p in self.pinned)[:excess]
            left.update({p: self.slots.pop(p) for p in leaving})
            through, coming = coming[: excess - len(leaving)], coming[excess - len(leaving) :]
            unused = iter(sorted(set(span) - set(self.slots.values())))
            self.slots.update({p: next(unused) for p in coming})
            coming, start = [*leaving, *through], span.stop
        return [(slot, self.slots[p]) for p, slot in sorted(left.items())]

    def wrote(self, layer: int, positions: Sequence[int]) -> None:
        """The frames at ``positions``, which have slots, are written in this layer now."""
        for p in positions:
            if p in self._missing:
                self._missing[p].discard(layer)
                if not self._missing[p]:
                    del self._missing[p]

    def plan_eviction(self, positions: Sequence[int], order: Order = sorted) -> tuple[int, ...]:
        """Positions of the frames that a write at ``positions`` would evict, in ascending order.

        Raises:
            BudgetError: the frames would not fit beside the pinned frames.
        """
        if self.capacities is None or self.capacity is None:
            return ()
        new = [p for p in positions if p not in self.slots]
        excess = max(0, len(new) + len(self.slots) - self.capacity)
        unpinned = [p for p in sorted(self.slots) if p not in self.pinned and p not in positions]
        if excess > len(unpinned):
            raise BudgetError(
                f"The budget of {sum(self.budgets)} bytes holds {self.capacity} frames, of which {len(self.pinned)} "
                f"are pinned; there is no room for {len(new)} more. Raise the budget to "
                f"{self.bytes_per_frame[0] * (self.capacities[0] + excess - len(unpinned))} bytes, or unpin some."
            )
        return tuple(sorted(order(unpinned)[:excess])) if excess else ()

    def drop(self, positions: Sequence[int]) -> None:
        """Free the slots of ``positions``."""
        for p in positions:
            self.slots.pop(p, None)
            self._missing.pop(p, None)
            self.pinned.discard(p)

    def forget(self, layer: int) -> None:
        """No frame is written in this layer any more; frames that are written in no other lose their slots."""
        for p in list(self.slots):
            missing = self._missing.setdefault(p, set())
            missing.add(layer)
            if len(missing) == self.layers:
                self.drop([p])

    def clear(self) -> None:
        """Free all slots."""
        self.drop(list(self.slots))

    def allocate(self, bytes_per_frame: Sequence[int], frames: int) -> tuple[int, ...]:
        """Begin anew with frames of another size: the number of slots of each place that its budget allows.

        Raises:
            BudgetError: they do not allow ``frames`` of them.
        """
        capacities = tuple(budget // size for budget, size in zip(self.budgets, bytes_per_frame, strict=True))
        if sum(capacities) < frames:
            raise BudgetError(
                f"The budget of {sum(self.budgets)} bytes holds {sum(capacities)} frames of {bytes_per_frame[0]} bytes;"
                f" raise it for a write of {frames} frames, which need {frames * bytes_per_frame[0]} bytes."
            )
        self.clear()
        self.capacities, self.bytes_per_frame = capacities, tuple(bytes_per_frame)
        return capacities
