"""`SlotCache`: keys and values of latent frames in preallocated slots, indexed by position, within a byte budget.

One slot holds one latent frame in all layers. Slots are used compactly, whatever the positions: a frame at position
4000 needs no more memory than one at position 4. Nothing here depends on a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.rotary import checked_positions
from memkit.errors import InputError, MemkitError

KV = tuple[Float[Tensor, "batch tokens _ _"], Float[Tensor, "batch tokens _ _"]]
"""Keys, rotated to their positions, and values of frames in one layer."""


class BudgetError(MemkitError):
    """The budget of a cache is too small for the frames to be written."""


class SlotCache:
    """Frames by position; when it is full, the unpinned frame with the lowest position is evicted first.

    All slots are allocated at the first write, when the size of a frame is known; later writes allocate nothing.
    Keys and values are stored detached from the autograd graph.

    Args:
        budget_bytes: memory for all slots of all layers together.
    """

    def __init__(self, budget_bytes: int) -> None:
        if budget_bytes <= 0:
            raise InputError(f"The budget of a cache is {budget_bytes} bytes; give enough for some frames.")
        self.budget_bytes = budget_bytes
        self._kv: list[tuple[Tensor, Tensor]] = []  # per layer, each [B, slots, tokens, H, D]
        self._slots: dict[int, int] = {}
        self._pinned: set[int] = set()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the cached frames, in ascending order."""
        return tuple(sorted(self._slots))

    @property
    def pinned(self) -> tuple[int, ...]:
        """Positions of the pinned frames, which are never evicted, in ascending order."""
        return tuple(sorted(self._pinned))

    @property
    def capacity(self) -> int | None:
        """Number of slots; None until the first write."""
        return self._kv[0][0].shape[1] if self._kv else None

    @property
    def layers(self) -> int:
        """Number of layers; 0 until the first write."""
        return len(self._kv)

    @property
    def nbytes(self) -> int:
        """Number of bytes allocated: at most the budget; 0 until the first write."""
        return sum(x.nbytes for kv in self._kv for x in kv)

    def window(self, frames: int, before: int | None = None) -> tuple[int, ...]:
        """The highest ``frames`` positions and all pinned ones, in ascending order; if given, only those below
        ``before``."""
        if frames < 0:
            raise InputError(f"A window of {frames} frames; give 0 or more.")
        past = [p for p in self.positions if before is None or p < before]
        newest = past[len(past) - frames :] if frames < len(past) else past
        return tuple(p for p in past if p in self._pinned or p in newest)

    def get(self, layer: int, positions: Sequence[int] | None = None) -> KV:
        """Keys and values of the frames at ``positions``, in that order; by default of all, in ascending order.

        They may be views of the slots: do not modify them, and use them only until the next write.

        Raises:
            InputError: nothing has been written yet, or a position is not in the cache.
        """
        if not self._kv:
            raise InputError("The cache is empty: it was never written to; write some frames first.")
        positions = self.positions if positions is None else self.require(positions)
        slots = [self._slots[p] for p in positions]
        first = slots[0] if slots else 0
        k, v = self._kv[layer]
        if slots == list(range(first, first + len(slots))):
            selected = [x[:, first : first + len(slots)] for x in (k, v)]
        else:
            rows = torch.tensor(slots, device=k.device)
            selected = [x.index_select(1, rows) for x in (k, v)]
        return selected[0].flatten(1, 2), selected[1].flatten(1, 2)

    # -- writing ---------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)  # the slots outlive an inference mode in which they are first written
    @torch.no_grad()
    def update(self, positions: Sequence[int], kv: Sequence[KV], pin: bool = False) -> tuple[int, ...]:
        """Write the frames at ``positions``, one ``(k, v)`` [B, frames·tokens, H, D] per layer.

        A cached frame at the same position is replaced, and remains pinned if it was.

        Returns:
            The positions of the frames that were evicted.

        Raises:
            BudgetError: the frames do not fit beside the pinned frames; the cache is unchanged.
            InputError: the frames have another shape, dtype or number of layers than the cached ones; the cache is
                unchanged.
        """
        positions = checked_positions(positions)
        frames = [_by_frame(pair, len(positions)) for pair in kv]
        if not frames:
            raise InputError("A write needs the keys and values of at least one layer.")
        if _layout(frames) != _layout(self._kv):
            if self._slots:
                raise InputError(
                    f"The cache holds frames of {_describe(self._kv)}, the new ones have {_describe(frames)}; "
                    "reset() it first, or use another cache."
                )
            self._allocate(frames, len(positions))
        evicted = self.plan_eviction(positions)
        for p in evicted:
            del self._slots[p]
        free = iter(sorted(set(range(self.capacity or 0)) - set(self._slots.values())))
        for p in positions:
            if p not in self._slots:
                self._slots[p] = next(free)
        self._pinned.update(positions if pin else ())
        slots = [self._slots[p] for p in positions]
        for (k, v), (new_k, new_v) in zip(self._kv, frames, strict=True):
            k[:, slots], v[:, slots] = new_k.to(k.device), new_v.to(v.device)
        return evicted

    def plan_eviction(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Positions of the frames that a write at ``positions`` would evict, in ascending order.

        Raises:
            BudgetError: the frames would not fit beside the pinned frames.
        """
        if self.capacity is None:
            return ()
        new = [p for p in positions if p not in self._slots]
        excess = max(0, len(new) + len(self._slots) - self.capacity)
        unpinned = [p for p in self.positions if p not in self._pinned and p not in positions]
        if excess > len(unpinned):
            raise BudgetError(
                f"The budget of {self.budget_bytes} bytes holds {self.capacity} frames, of which {len(self._pinned)} "
                f"are pinned; there is no room for {len(new)} more. Raise the budget to "
                f"{self.nbytes // self.capacity * (self.capacity + excess - len(unpinned))} bytes, or unpin some."
            )
        return tuple(unpinned[:excess])

    def pin(self, positions: Sequence[int]) -> None:
        """Never evict the frames at ``positions``, such as an attention sink or an anchor frame."""
        self._pinned.update(self.require(positions))

    def unpin(self, positions: Sequence[int]) -> None:
        """Allow the frames at ``positions`` to be evicted again."""
        self._pinned.difference_update(self.require(positions))

    def drop(self, positions: Sequence[int]) -> None:
        """Remove the frames at ``positions``, even pinned ones."""
        for p in self.require(positions):
            self._slots.pop(p, None)
            self._pinned.discard(p)

    def reset(self) -> None:
        """Remove all frames; the slots stay allocated for frames of the same size."""
        self._slots.clear()
        self._pinned.clear()

    def require(self, positions: Sequence[int]) -> tuple[int, ...]:
        """``positions`` as ints. Raises `InputError` unless all of them are in the cache."""
        positions = tuple(int(p) for p in positions)
        if missing := [p for p in positions if p not in self._slots]:
            raise InputError(f"The cache has no frame at {missing}; it holds {list(self.positions)}.")
        return positions

    def _allocate(self, frames: list[tuple[Tensor, Tensor]], num_frames: int) -> None:
        bytes_per_frame = sum(x[:, 0].nbytes for kv in frames for x in kv)
        capacity = self.budget_bytes // bytes_per_frame
        if capacity < num_frames:
            raise BudgetError(
                f"The budget of {self.budget_bytes} bytes holds {capacity} frames of {bytes_per_frame} bytes; raise it "
                f"for a write of {num_frames} frames, which need {num_frames * bytes_per_frame} bytes."
            )
        self._kv = []  # frees the old slots before the new ones are allocated
        self._kv = [(_slots_like(k, capacity), _slots_like(v, capacity)) for k, v in frames]


def _slots_like(frames: Tensor, capacity: int) -> Tensor:
    return frames.new_empty((frames.shape[0], capacity, *frames.shape[2:]))


def _by_frame(kv: KV, frames: int) -> tuple[Tensor, Tensor]:
    for x in kv:
        if x.ndim != 4 or x.shape[1] == 0 or x.shape[1] % frames:
            raise InputError(
                f"Keys or values of {frames} frames have the shape {list(x.shape)}; give [B, {frames}·tokens, H, D]."
            )
    return kv[0].unflatten(1, (frames, -1)), kv[1].unflatten(1, (frames, -1))


def _layout(kv: Sequence[tuple[Tensor, Tensor]]) -> list[tuple]:
    return [(x.shape[0], *x.shape[2:], x.dtype) for pair in kv for x in pair]


def _describe(kv: Sequence[tuple[Tensor, Tensor]]) -> str:
    (batch, _, tokens, heads, dim), dtype = kv[0][0].shape, kv[0][0].dtype
    return f"{len(kv)} layers, a batch of {batch}, {tokens} tokens, {heads} heads of {dim}, {dtype}"
