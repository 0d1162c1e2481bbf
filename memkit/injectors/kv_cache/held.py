"""`HeldFrames`: the cached frames of one branch, as they are read: by chunks, read policies and scores."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from memkit.checks import LAYERS, check_whole
from memkit.display import counted, described, listed, size_of
from memkit.errors import InputError
from memkit.injectors.kv_cache.layer import KV, LayerCache
from memkit.injectors.kv_cache.notes import Notes
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.scores.base import Need
from memkit.injectors.kv_cache.summary import Averages
from memkit.injectors.kv_cache.table import SlotTable


class HeldFrames:
    """The reading half of a `SlotCache`.

    Attributes:
        budget_bytes: memory for all slots of all layers together, on the device of the model.
        parts: which frames are kept, where, and in which form.
        name: of the branch, for warnings.
        needs: what is noted for scores, of ``parts.keep`` or of a read policy.
        prompt: mean keys of the prompt of the chunk to come, [B, H, D] per layer, where a score needs them.
        averages: per layer, the averages of evicted frames, if ``parts.summary`` asks for them and any was evicted.
        notes: of the frames, for scores.
        table: which frame is in which slot.
    """

    def __init__(self, budget_bytes: int, parts: CacheParts, name: str) -> None:
        self.budget_bytes, self.parts, self.name = budget_bytes, parts, name
        self.needs: frozenset[Need] = parts.keep.needs
        self.prompt: Sequence[Tensor] | None = None
        self.averages: list[Averages] | None = None
        self.notes = Notes()
        self.table = SlotTable((budget_bytes, *(place.budget_bytes for place in parts.spill)))
        self._layers: list[LayerCache] = []
        self._frame_size: tuple[int, int] | None = None

    def __repr__(self) -> str:
        held = f"{counted(len(self.positions), 'frame')} at {listed(self.positions)}" if self.positions else "empty"
        pinned = f"{len(self.pinned)} pinned" if self.pinned else ""
        of = "" if self.capacity is None else f"room for {self.capacity}"
        layers = counted(self.layers, "layer") if self.layers else ""
        used = f"{size_of(sum(self.place_bytes))} of {size_of(self.table.budgets[0])}"
        return described(self, repr(self.name), held, pinned, of, layers, used)

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the cached frames, in ascending order: those that are written in all layers."""
        return self.table.positions()

    @property
    def pinned(self) -> tuple[int, ...]:
        """Positions of the pinned frames, which are never evicted, in ascending order."""
        return tuple(sorted(self.table.pinned))

    @property
    def capacity(self) -> int | None:
        """Number of slots; None until the first write."""
        return self.table.capacity

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Rows and columns of tokens of the frames held; None where there are none, or who wrote them did not say."""
        return self._frame_size if self.table.slots else None

    def set_frame_size(self, size: tuple[int, int] | None) -> None:
        """Say how many rows and columns of tokens the frames held have."""
        self._frame_size = size

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
        """Number of bytes allocated in the first place: at most the budget; 0 until the first write."""
        return self.place_bytes[0]

    @property
    def place_bytes(self) -> tuple[int, ...]:
        """Number of bytes allocated in each place; averages of evicted frames are beside them."""
        shelves = [layer.shelves for layer in self._layers if layer.shelves is not None]
        return tuple(sum(each.place_bytes[i] for each in shelves) for i in range(1 + len(self.parts.spill)))

    def before(self, chunk: Sequence[int]) -> tuple[int, ...]:
        """Positions of the cached frames below all of ``chunk``."""
        return tuple(p for p in self.positions if p < min(chunk))

    def window(self, frames: int, before: int | None = None) -> tuple[int, ...]:
        """The highest ``frames`` positions and all pinned ones, in ascending order; if given, only those below
        ``before``."""
        check_whole("The window", frames, unit="frames")
        past = [p for p in self.positions if before is None or p < before]
        newest = past[len(past) - frames :] if frames < len(past) else past
        return tuple(p for p in past if p in self.table.pinned or p in newest)

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

    @property
    def rotated(self) -> bool:
        """Whether keys are stored after the rotation to their positions."""
        return self.parts.rotated

    def get(self, layer: int, positions: Sequence[int] | None = None) -> KV:
        """Keys and values of one layer; see `LayerCache.get`."""
        if not self._layers:
            raise InputError("The cache is empty: it was never written to; write some frames first.")
        return self.layer(layer).get(positions)

    def note(self, name: str, positions: Sequence[int], values: Sequence[Tensor]) -> None:
        """Note one tensor for each of the frames at ``positions``, until they are evicted or replaced.

        Raises `InputError` where one of them is not in the cache.
        """
        self.notes.write(name, dict(zip(self.require(positions), (x.detach() for x in values), strict=True)))

    def noted(self, name: str, positions: Sequence[int]) -> list[Tensor | None]:
        """What was noted under this name of the frames at ``positions``; None where nothing was."""
        return self.notes.read(name, positions)

    def require(self, positions: Sequence[int]) -> tuple[int, ...]:
        """``positions`` as ints. Raises `InputError` unless all of them are in the cache."""
        return self.table.require(positions)
