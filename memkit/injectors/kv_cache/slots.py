"""`SlotCache`: keys and values of latent frames in preallocated slots, indexed by position, within a byte budget.

One slot holds one latent frame in all layers. Slots are used compactly, whatever the positions: a frame at position
4000 needs no more memory than one at position 4. Nothing here depends on a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from memkit.backbones.rotary import checked_positions
from memkit.checks import LAYERS, check_all_finite, check_budget, check_list, check_room, check_whole, has_values
from memkit.errors import InputError
from memkit.injectors.kv_cache.eviction import EvictionOrder
from memkit.injectors.kv_cache.held import HeldFrames
from memkit.injectors.kv_cache.layer import KV, LayerCache, by_frame
from memkit.injectors.kv_cache.notes import warn_of_zeros
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.shelves import Shelves, stored_bytes
from memkit.injectors.kv_cache.storage.base import FrameLayout, Frames, described


class SlotCache(HeldFrames):
    """Frames by position; when it is full, the unpinned frame with the lowest position is evicted first, or that with
    the lowest score of ``parts.keep``.

    All slots are allocated at the first write, when the size of a frame is known; later writes allocate nothing.
    Keys and values are stored detached from the autograd graph.

    Args:
        budget_bytes: memory for all slots of all layers together.
        layers: number of layers; by default that of the first `update`. Single layers can be updated only if it is
            known.
        parts: which frames are kept, where, and in which form.
        name: of the branch, for warnings.

    Raises:
        InputError: the budget is not positive, or more than the memory of this machine.
    """

    def __init__(
        self,
        budget_bytes: int,
        layers: int = 0,
        parts: CacheParts = CacheParts(),  # noqa: B008  # frozen
        name: str = "main",
    ) -> None:
        check_budget("budget_bytes", budget_bytes)
        check_whole("layers", layers, 0, LAYERS[1])
        super().__init__(budget_bytes, parts, name)
        self.expect_layers(layers)

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
        if all(has_values(x) for pair in frames for x in pair):
            warn_of_zeros(self.name, positions, dict(enumerate(frames)))
        self.allocate(frames)
        evicted = self.make_room(positions, pin)
        try:
            for layer, pair in zip(self._layers, frames, strict=True):
                layer.write(positions, pair)
        except BaseException:  # a storage that cannot hold these numbers: no frame is to be of two writes
            self.table.drop(positions)
            raise
        self._frame_size = self.frame_size if frame_size is None else frame_size
        return evicted

    def plan_eviction(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Positions of the frames that a write at ``positions`` would evict, in ascending order.

        Raises:
            BudgetError: the frames would not fit beside the pinned frames.
        """
        return self.table.plan_eviction(positions, EvictionOrder(self.parts.keep, self, positions))

    def check_room(self, positions: Sequence[int]) -> None:
        """Raises `BudgetError` where a write at ``positions`` would not fit beside the pinned frames."""
        self.table.plan_eviction(positions)

    def pin(self, positions: Sequence[int]) -> None:
        """Never evict the frames at ``positions``, such as an attention sink or an anchor frame."""
        self.table.pinned.update(self.require(positions))

    def unpin(self, positions: Sequence[int]) -> None:
        """Allow the frames at ``positions`` to be evicted again."""
        self.table.pinned.difference_update(self.require(positions))

    def drop(self, positions: Sequence[int]) -> None:
        """Remove the frames at ``positions``, even pinned ones."""
        self.table.drop(self.require(positions))

    def reset(self) -> None:
        """Remove all frames, and the averages of evicted ones; the slots stay allocated for frames of the same size."""
        self.table.clear()
        self.averages = None

    # -- slots -----------------------------------------------------------------------------------------------------

    def expect_layers(self, layers: int) -> None:
        """Have this number of layers, if no frame is held."""
        if not self.table.slots:
            self._make_layers(layers)

    def make_room(self, positions: tuple[int, ...], pin: bool) -> tuple[int, ...]:
        """Assign slots to the frames at ``positions``; returns the positions of those that are evicted for them.

        Raises `BudgetError` as `plan_eviction` does, before anything is changed.
        """
        order = EvictionOrder(self.parts.keep, self, positions)
        evicted = self.table.plan_eviction(positions, order)
        if self.table.moves_on(positions):
            _ = order.scores  # before anything is changed, as they may raise
        whole = [p for p in evicted if p in self.positions]
        if self.parts.summary is not None and whole:
            frames = [[x.unflatten(1, (len(whole), -1)) for x in layer.get(whole)] for layer in self._layers]
            self.averages = self.parts.summary.absorb_layers(self.averages, frames)
        self.table.drop(evicted)
        self.notes.forget([p for p in self.table.slots if p not in positions])
        if moves := self.table.assign(positions, pin, order):
            self._move(moves, positions)
        return evicted

    def _move(self, moves: list[tuple[int, int]], positions: tuple[int, ...]) -> None:
        """Copy frames from slots to slots. Where that fails, they and the frames to be written are dropped."""
        try:
            for layer in self._layers:
                if layer.shelves is not None:
                    layer.shelves.move(moves)
        except BaseException:
            targets = {slot for _, slot in moves}
            self.table.drop([p for p, slot in self.table.slots.items() if slot in targets or p in positions])
            raise

    def fit_layer(self, layer: int, frames: Frames) -> None:
        """Make sure that the slots take these frames of one layer; the others are taken to be alike."""
        if self._layers[layer].layout != FrameLayout.of(frames):
            self.allocate([frames] * len(self._layers))

    def _make_layers(self, layers: int) -> None:
        self.table.layers = layers
        if layers != len(self._layers):
            self._layers = [LayerCache(layer, self) for layer in range(layers)]

    def allocate(self, frames: Sequence[Frames]) -> None:
        """Make sure that the slots take these frames, one per layer; they are allocated anew where none is held."""
        held = [layer.layout for layer in self._layers if layer.layout is not None]
        if [FrameLayout.of(pair) for pair in frames] == held:
            return
        if self.table.slots:
            raise InputError(
                f"The cache holds frames of {described(held)}, the new ones have "
                f"{described([FrameLayout.of(pair) for pair in frames])}; reset() it first, or use another cache."
            )
        sizes = stored_bytes(self.parts, frames)
        check_room("The budget of the cache", self.budget_bytes // sizes[0] * sizes[0], frames[0][0].device)
        self.table.allocate(sizes, frames[0][0].shape[1])
        for layer in self._layers:
            layer.shelves = None  # frees the old slots before the new ones are allocated
        self._make_layers(len(frames))
        self.averages = None
        for layer, pair in zip(self._layers, frames, strict=True):
            layer.shelves = Shelves(self.parts, self.table, pair)
