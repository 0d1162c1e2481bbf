"""`LayerCache`: the keys and values of one layer, with the three verbs of a cache: ``update``, ``get``, ``reset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.attention import joined
from memkit.backbones.rotary import checked_positions
from memkit.checks import check_all_finite, check_floats
from memkit.errors import InputError
from memkit.injectors.kv_cache.shelves import Angles, Shelves
from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames
from memkit.injectors.kv_cache.table import SlotTable

Keys = Float[Tensor, "batch tokens _ _"]
"""Keys, rotated to their positions, or values, of frames in one layer: [B, frames·tokens per frame, H, D]."""

KV = tuple[Keys, Keys]


@runtime_checkable
class Owner(Protocol):
    """The branch that a layer belongs to."""

    table: SlotTable

    def fit_layer(self, layer: int, frames: Frames) -> None: ...
    def make_room(self, positions: tuple[int, ...], pin: bool) -> tuple[int, ...]: ...


class Read(NamedTuple):
    """Frames as a chunk attends to them."""

    k: Tensor
    """[B, tokens, H, D], on the device of the model."""
    v: Tensor
    log_weight: Tensor | None
    """[B, tokens], where some of the keys stand for several."""
    tokens: tuple[int, ...]
    """Number of tokens of each frame."""


class LayerCache:
    """Keys and values of latent frames in one layer, by position; see `SlotCache`, which all layers belong to.

    Its slots are preallocated: an update copies into them and allocates nothing. Keys and values are stored detached
    from the autograd graph.
    """

    def __init__(self, layer: int, owner: Owner) -> None:
        self.layer = layer
        self.shelves: Shelves | None = None
        """Its slots; None until they are allocated."""
        self._owner, self._table = owner, owner.table

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
        frames = self.read(self.positions if positions is None else self._table.require(positions, self.layer))
        return frames.k, frames.v

    def read(self, positions: Sequence[int], tables: Angles | None = None) -> Read:
        """The frames at ``positions``, which are in the cache, for attention; keys rotated by ``tables``, if given.

        Raises `InputError` where nothing has been written yet.
        """
        if self.shelves is None:
            raise InputError("The cache is empty: it was never written to; write some frames first.")
        runs = self.shelves.read([self._table.slots[p] for p in positions], tables)
        k, v = ([frames[i].flatten(1, 2) for _, frames in runs] for i in (0, 1))
        tokens = tuple(pair[0].shape[2] for _, pair in runs for _ in range(pair[0].shape[1]))
        weights = [self.shelves.log_weight(place) for place, _ in runs]
        log_weight = None
        if any(weights):
            log_weight = torch.cat([x.new_full(x.shape[:2], w) for x, w in zip(k, weights, strict=True)], 1)
        return Read(joined(k), joined(v), log_weight, tokens)

    def behind(self, positions: Sequence[int], k: Tensor, v: Tensor) -> KV | None:
        """The keys and values of a chunk, copied to where the frames at ``positions`` end, if they are in slots that
        unused ones follow: then attention to both needs no copy of the cached frames. Nothing counts as written."""
        assert self.shelves is not None
        pair = by_frame((k, v), k.shape[1] // self.shelves.layout.tokens)
        copies = self.shelves.write_behind([self._table.slots[p] for p in positions], pair)
        return None if copies is None else (copies[0].flatten(1, 2), copies[1].flatten(1, 2))

    @property
    def layout(self) -> FrameLayout | None:
        """Batch, tokens, heads, width and dtype of its frames; None until the first write."""
        return None if self.shelves is None else self.shelves.layout

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
        self._owner.fit_layer(self.layer, frames)
        evicted = self._owner.make_room(positions, pin)
        self.write(positions, frames)
        return evicted

    def write(self, positions: tuple[int, ...], frames: Frames) -> None:
        """Write what was checked already, to slots that are assigned to the positions already."""
        assert self.shelves is not None
        self.shelves.write([self._table.slots[p] for p in positions], frames)
        self._table.wrote(self.layer, positions)

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
