"""`SlotCache`: keys and values of latent frames in preallocated slots, indexed by position, within a byte budget.

One slot holds one latent frame in all layers. Slots are used compactly, whatever the positions: a frame at position
4000 needs no more memory than one at position 4. Nothing here depends on a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memkit.backbones.rotary import checked_positions
from memkit.checks import LAYERS, check_all_finite, check_budget, check_list, check_room, check_whole
from memkit.errors import InputError
from memkit.injectors.kv_cache.layer import KV, Frames, LayerCache, by_frame, layout
from memkit.injectors.kv_cache.table import SlotTable


class SlotCache:
    """Frames by position; when it is full, the unpinned frame with the lowest position is evicted first.

    All slots are allocated at the first write, when the size of a frame is known; later writes allocate nothing.
    Keys and values are stored detached from the autograd graph.

    Args:
        budget_bytes: memory for all slots of all layers together.
        layers: number of layers; by default that of the first `update`. Single layers can be updated only if it is
            known.

    Raises:
        InputError: the budget is not positive, or more than the memory of this machine.
    """

    def __init__(self, budget_bytes: int, layers: int = 0) -> None:
        check_budget("budget_bytes", budget_bytes)
        check_whole("layers", layers, 0, LAYERS[1])
        self._table = SlotTable(budget_bytes)
        self._layers: list[LayerCache] = []
        self._frame_size: tuple[int, int] | None = None
        self.expect_layers(layers)

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def budget_bytes(self) -> int:
        """Memory for all slots of all layers together."""
        return self._table.budget_bytes

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the cached frames, in ascending order: those that are written in all layers."""
        return self._table.positions()

    @property
    def pinned(self) -> tuple[int, ...]:
        """Positions of the pinned frames, which are never evicted, in ascending order."""
        return tuple(sorted(self._table.pinned))

    @property
    def capacity(self) -> int | None:
        """Number of slots; None until the first write."""
        return self._table.capacity

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Rows and columns of tokens of the frames held; None where there are none, or who wrote them did not say."""
        return self._frame_size if self._table.slots else None

    def check_frame_size(self, size: tuple[int, int] | None) -> None:
        """Raises `InputError` where the frames held are of another size, also one of as many tokens."""
        held = self.frame_size
        if held is not None and size is not None and held != size:
            raise InputError(
                f"The cached frames have {held[0] * held[1]} tokens in {held[0]} rows and {held[1]} columns, the new "
                f"ones {size[0] * size[1]} in {size[0]} and {size[1]}; keep the size within a session, or reset() the "
                "cache."
            )

    @property
    def layers(self) -> int:
        """Number of layers; 0 while it is not known, until attaching or the first write."""
        return len(self._layers)

    @property
    def nbytes(self) -> int:
        """Number of bytes allocated: at most the budget; 0 until the first write."""
        return sum(x.nbytes for layer in self._layers for x in layer.slots or ())

    def window(self, frames: int, before: int | None = None) -> tuple[int, ...]:
        """The highest ``frames`` positions and all pinned ones, in ascending order; if given, only those below
        ``before``."""
        check_whole("The window", frames, unit="frames")
        past = [p for p in self.positions if before is None or p < before]
        newest = past[len(past) - frames :] if frames < len(past) else past
        return tuple(p for p in past if p in self._table.pinned or p in newest)

    def layer(self, layer: int) -> LayerCache:
        """One layer, to ``update``, ``get`` or ``reset`` by itself.

        Raises:
            InputError: there is no such layer, or the number of layers is not known yet.
        """
        check_whole("layer", layer, -LAYERS[1], LAYERS[1])
        if not 0 <= layer < len(self._layers):
            raise InputError(
                f"There is no layer {layer}: the cache has {len(self._layers)}. Their number is given as "
                "num_layers, or known after attaching or a first write."
            )
        return self._layers[layer]

    def get(self, layer: int, positions: Sequence[int] | None = None) -> KV:
        """Keys and values of one layer; see `LayerCache.get`."""
        if not self._layers:
            raise InputError("The cache is empty: it was never written to; write some frames first.")
        return self.layer(layer).get(positions)

    # -- writing ---------------------------------------------------------------------------------------------------

    def update(
        self,
        positions: Sequence[int],
        kv: Sequence[KV],
        pin: bool = False,
        frame_size: tuple[int, int] | None = None,
    ) -> tuple[int, ...]:
        """Write the frames at ``positions`` in all layers, one ``(k, v)`` [B, frames·tokens, H, D] per layer.

        A cached frame at the same position is replaced, and remains pinned if it was. ``frame_size`` are the rows and
        columns of tokens of a frame, if known: later frames must then have the same.

        Returns:
            The positions of the frames that were evicted.

        Raises:
            BudgetError: the frames do not fit beside the pinned frames; the cache is unchanged.
            InputError: the frames have another shape, size, dtype or number of layers than the cached ones, or have NaN
                or infinite numbers; the cache is unchanged.
        """
        positions = checked_positions(positions)
        pairs = check_list("kv", kv, "pairs of keys and values, one per layer")
        frames = [by_frame(pair, len(positions)) for pair in pairs]
        if not frames:
            raise InputError("A write needs the keys and values of at least one layer.")
        self.check_frame_size(frame_size)
        names = ("Keys of layer {}", "Values of layer {}")
        check_all_finite(
            {name.format(i): x for i, pair in enumerate(pairs) for name, x in zip(names, pair, strict=True)}
        )
        self._fit(frames)
        evicted = [layer.write(positions, pair, pin) for layer, pair in zip(self._layers, frames, strict=True)]
        self._frame_size = self.frame_size if frame_size is None else frame_size
        return evicted[0]

    def plan_eviction(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Positions of the frames that a write at ``positions`` would evict, in ascending order.

        Raises:
            BudgetError: the frames would not fit beside the pinned frames.
        """
        return self._table.plan_eviction(positions)

    def pin(self, positions: Sequence[int]) -> None:
        """Never evict the frames at ``positions``, such as an attention sink or an anchor frame."""
        self._table.pinned.update(self.require(positions))

    def unpin(self, positions: Sequence[int]) -> None:
        """Allow the frames at ``positions`` to be evicted again."""
        self._table.pinned.difference_update(self.require(positions))

    def drop(self, positions: Sequence[int]) -> None:
        """Remove the frames at ``positions``, even pinned ones."""
        self._table.drop(self.require(positions))

    def reset(self) -> None:
        """Remove all frames; the slots stay allocated for frames of the same size."""
        self._table.clear()

    def require(self, positions: Sequence[int]) -> tuple[int, ...]:
        """``positions`` as ints. Raises `InputError` unless all of them are in the cache."""
        return self._table.require(positions)

    # -- slots -----------------------------------------------------------------------------------------------------

    def expect_layers(self, layers: int) -> None:
        """Have this number of layers, if no frame is held."""
        if not self._table.slots:
            self._make_layers(layers)

    def _make_layers(self, layers: int) -> None:
        self._table.layers = layers
        if layers != len(self._layers):
            self._layers = [LayerCache(layer, self._table, self._fit_layer) for layer in range(layers)]

    def _fit_layer(self, layer: int, frames: Frames) -> None:
        """Make sure that the slots take these frames of one layer; the others are taken to be alike."""
        held = self._layers[layer].slots
        if held is None or layout(held) != layout(frames):
            self._fit([frames] * len(self._layers))

    def _fit(self, frames: Sequence[Frames]) -> None:
        """Make sure that the slots take these frames, one per layer; they are allocated anew where none is held."""
        held = [layer.slots for layer in self._layers if layer.slots is not None]
        if [layout(pair) for pair in frames] == [layout(pair) for pair in held]:
            return
        if self._table.slots:
            raise InputError(
                f"The cache holds frames of {_describe(held)}, the new ones have {_describe(frames)}; "
                "reset() it first, or use another cache."
            )
        bytes_per_frame = sum(x[:, 0].nbytes for pair in frames for x in pair)
        whole = self.budget_bytes // bytes_per_frame * bytes_per_frame
        check_room("The budget of the cache", whole, frames[0][0].device)
        capacity = self._table.allocate(bytes_per_frame, frames[0][0].shape[1])
        for layer in self._layers:
            layer.slots = None  # frees the old slots before the new ones are allocated
        self._make_layers(len(frames))
        for layer, (k, v) in zip(self._layers, frames, strict=True):
            layer.slots = _slots_like(k, capacity), _slots_like(v, capacity)


@torch.inference_mode(False)  # the slots outlive an inference mode in which they are first written
def _slots_like(frames: Tensor, capacity: int) -> Tensor:
    return frames.new_empty((frames.shape[0], capacity, *frames.shape[2:]))


def _describe(kv: Sequence[Frames]) -> str:
    (batch, _, tokens, heads, dim), dtype = kv[0][0].shape, kv[0][0].dtype
    return f"{len(kv)} layers, a batch of {batch}, {tokens} tokens, {heads} heads of {dim}, {dtype}"
