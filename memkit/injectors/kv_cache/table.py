"""`SlotTable`: which frame is in which slot, in which layers it is written, and which frames are pinned."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

from memkit.checks import shown
from memkit.errors import InputError, MemkitError


class BudgetError(MemkitError):
    """The budget of a cache is too small for the frames to be written."""


class SlotTable:
    """The bookkeeping of a `SlotCache`, which all its layers share: one slot holds one frame in all layers.

    A frame has a slot from its first write in any layer on; it counts as cached once it is written in all of them.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.layers = 0
        self.capacity: int | None = None
        """Number of slots; None until they are allocated."""
        self.bytes_per_frame = 0
        self.slots: dict[int, int] = {}
        """Slot of each position, also of frames that are not written in all layers yet."""
        self.pinned: set[int] = set()
        self._missing: dict[int, set[int]] = {}  # layers in which a frame is not written yet

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

    def place(self, positions: Sequence[int], pin: bool) -> tuple[int, ...]:
        """Give each position a slot; returns the positions of the frames that are evicted for it.

        Raises `BudgetError` as `plan_eviction` does, before anything is changed.
        """
        evicted = self.plan_eviction(positions)
        self.drop(evicted)
        free = iter(sorted(set(range(self.capacity or 0)) - set(self.slots.values())))
        for p in positions:
            if p not in self.slots:
                self.slots[p] = next(free)
                self._missing[p] = set(range(self.layers))
        self.pinned.update(positions if pin else ())
        return evicted

    def wrote(self, layer: int, positions: Sequence[int]) -> None:
        """The frames at ``positions``, which have slots, are written in this layer now."""
        for p in positions:
            if p in self._missing:
                self._missing[p].discard(layer)
                if not self._missing[p]:
                    del self._missing[p]

    def plan_eviction(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Positions of the frames that a write at ``positions`` would evict, in ascending order.

        Raises:
            BudgetError: the frames would not fit beside the pinned frames.
        """
        if self.capacity is None:
            return ()
        new = [p for p in positions if p not in self.slots]
        excess = max(0, len(new) + len(self.slots) - self.capacity)
        unpinned = [p for p in sorted(self.slots) if p not in self.pinned and p not in positions]
        if excess > len(unpinned):
            raise BudgetError(
                f"The budget of {self.budget_bytes} bytes holds {self.capacity} frames, of which {len(self.pinned)} "
                f"are pinned; there is no room for {len(new)} more. Raise the budget to "
                f"{self.bytes_per_frame * (self.capacity + excess - len(unpinned))} bytes, or unpin some."
            )
        return tuple(unpinned[:excess])

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

    def allocate(self, bytes_per_frame: int, frames: int) -> int:
        """Begin anew with frames of another size: the number of slots that the budget allows.

        Raises:
            BudgetError: it does not allow ``frames`` of them.
        """
        capacity = self.budget_bytes // bytes_per_frame
        if capacity < frames:
            raise BudgetError(
                f"The budget of {self.budget_bytes} bytes holds {capacity} frames of {bytes_per_frame} bytes; raise it "
                f"for a write of {frames} frames, which need {frames * bytes_per_frame} bytes."
            )
        self.clear()
        self.capacity, self.bytes_per_frame = capacity, bytes_per_frame
        return capacity
