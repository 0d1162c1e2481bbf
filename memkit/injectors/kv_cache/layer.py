"""`LayerCache`: the keys and values of one layer, with the three verbs of a cache: ``update``, ``get``, ``reset``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.rotary import checked_positions
from memkit.checks import check_all_finite, check_floats
from memkit.errors import InputError
from memkit.injectors.kv_cache.table import SlotTable

Keys = Float[Tensor, "batch tokens _ _"]
"""Keys, rotated to their positions, or values, of frames in one layer: [B, frames·tokens per frame, H, D]."""

KV = tuple[Keys, Keys]

Frames = tuple[Tensor, Tensor]
"""Keys and values by frame: [B, frames, tokens per frame, H, D]."""


class LayerCache:
    """Keys and values of latent frames in one layer, by position; see `SlotCache`, which all layers belong to.

    Its slots are preallocated: an update copies into them and allocates nothing. Keys and values are stored detached
    from the autograd graph.
    """

    def __init__(self, layer: int, table: SlotTable, fit: Callable[[int, Frames], None]) -> None:
        self.layer = layer
        self.slots: Frames | None = None
        """Keys and values [B, slots, tokens, H, D]; None until they are allocated."""
        self._table, self._fit = table, fit

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the frames that are written in this layer, in ascending order."""
        return self._table.positions(self.layer)

    def get(self, positions: Sequence[int] | None = None) -> KV:
        """Keys and values of the frames at ``positions``, in that order; by default of all, in ascending order.

        They may be views of the slots: do not modify them, and use them only until the next write.

        Raises:
            InputError: nothing has been written yet, or a position is not in the cache.
        """
        if self.slots is None:
            raise InputError("The cache is empty: it was never written to; write some frames first.")
        positions = self.positions if positions is None else self._table.require(positions, self.layer)
        slots = [self._table.slots[p] for p in positions]
        first = slots[0] if slots else 0
        k, v = self.slots
        if slots == list(range(first, first + len(slots))):
            selected = [x[:, first : first + len(slots)] for x in (k, v)]
        else:
            rows = torch.tensor(slots, device=k.device)
            selected = [x.index_select(1, rows) for x in (k, v)]
        return selected[0].flatten(1, 2), selected[1].flatten(1, 2)

    def update(self, positions: Sequence[int], k: Keys, v: Keys, pin: bool = False) -> tuple[int, ...]:
        """Write the frames at ``positions``: keys and values [B, frames·tokens, H, D].

        A frame at the same position is replaced, and remains pinned if it was. A frame is evicted, and pinned, in all
        layers. ``SlotCache.positions`` names a new frame as soon as all layers have been updated.

        Returns:
            The positions of the frames that were evicted.

        Raises:
            BudgetError: the frames do not fit beside the pinned frames; the cache is unchanged.
            InputError: the frames have another shape or dtype than the cached ones, or have NaN or infinite numbers;
                the cache is unchanged.
        """
        positions = checked_positions(positions)
        frames = by_frame((k, v), len(positions))
        check_all_finite({f"Keys of layer {self.layer}": k, f"Values of layer {self.layer}": v})
        self._fit(self.layer, frames)
        return self.write(positions, frames, pin)

    @torch.inference_mode(False)  # the slots outlive an inference mode in which they are first written
    @torch.no_grad()
    def write(self, positions: tuple[int, ...], frames: Frames, pin: bool) -> tuple[int, ...]:
        """`update` with what was checked already, into slots that fit."""
        evicted = self._table.place(positions, pin)
        assert self.slots is not None
        slots = [self._table.slots[p] for p in positions]
        for held, new in zip(self.slots, frames, strict=True):
            held[:, slots] = new.to(held.device)
        self._table.wrote(self.layer, positions)
        return evicted

    def reset(self) -> None:
        """Forget the frames of this layer; its slots stay allocated."""
        self._table.forget(self.layer)


def by_frame(kv: KV, frames: int) -> Frames:
    """Views with the frames as a dimension. Raises `InputError` where they cannot be divided into frames."""
    if not isinstance(kv, tuple | list) or len(kv) != 2:
        raise InputError("A layer takes a pair: its keys and its values.")
    for x in kv:
        check_floats("Keys or values", x)
        if x.ndim != 4 or x.shape[1] == 0 or x.shape[1] % frames:
            raise InputError(
                f"Keys or values of {frames} frames have the shape {list(x.shape)}; give [B, {frames}·tokens, H, D]."
            )
    if kv[0].shape[:2] != kv[1].shape[:2]:
        raise InputError(
            f"Keys are {list(kv[0].shape)} and values {list(kv[1].shape)}; give both one batch and number of tokens."
        )
    return kv[0].unflatten(1, (frames, -1)), kv[1].unflatten(1, (frames, -1))


def layout(kv: Frames) -> tuple:
    """What must be equal for frames to share slots."""
    return tuple((x.shape[0], *x.shape[2:], x.dtype) for x in kv)
