"""`CacheParts`: what a `KVCache` is made of: which frames it keeps, where, in which form, and at which positions.

    CacheParts()  # the newest frames, exact, on the model's device, at their positions
    CacheParts(keep=Sink(3) + Recent(6) + KeyDifference())
    CacheParts(spill=(OnCPU(2**33), OnDisk(2**36, "/scratch")))
    CacheParts(storage=Integers(4), rotated=False, reindex=Consecutive(sink=3), summary=EMASummary((0.01, 0.1)))

Which of the cached frames a chunk reads is the sixth part: ``read`` of each chunk, see `memkit.streaming`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from memkit.checks import shown
from memkit.errors import InputError
from memkit.injectors.kv_cache.places import Place
from memkit.injectors.kv_cache.reindex import Reindex, TruePositions
from memkit.injectors.kv_cache.scores.ages import Newest
from memkit.injectors.kv_cache.scores.base import Score
from memkit.injectors.kv_cache.select import Select
from memkit.injectors.kv_cache.storage.base import Exact, Storage
from memkit.injectors.kv_cache.storage.pooled import Pooled
from memkit.injectors.kv_cache.storage.pruned import Pruned
from memkit.injectors.kv_cache.summary import EMASummary


@dataclass(frozen=True)
class CacheParts:
    """The parts of a cache; each default is that of a plain window.

    Attributes:
        keep: the frames with the lowest score are evicted first, pinned ones never. At equal scores, it is the frame of
            the lowest position.
        storage: of the frames within the budget of the cache.
        spill: more places, each with a budget and a storage of its own, for frames that find no room in the places
            before. The frames with the lowest score move on; they do not come back.
        rotated: whether keys are stored after the rotation to their positions, or before it, to be rotated whenever
            they are read.
        reindex: the rotary positions of what a chunk reads and of itself; other than the true ones only with
            ``rotated=False``.
        summary: what becomes of evicted frames, which are otherwise lost; only with ``rotated=False``.
        select: which of the frames that a chunk reads each layer attends to, chosen by its queries; by default all.

    Raises:
        InputError: parts that do not go together.
    """

    keep: Score = Newest()  # noqa: RUF009
    storage: Storage = Exact()  # noqa: RUF009
    spill: tuple[Place, ...] = ()
    rotated: bool = True
    reindex: Reindex = TruePositions()  # noqa: RUF009
    summary: EMASummary | None = None
    select: Select | None = None

    def __post_init__(self) -> None:
        kinds = {
            "keep": Score,
            "storage": Storage,
            "reindex": Reindex,
            "summary": EMASummary | None,
            "select": Select | None,
            "spill": tuple,
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"CacheParts.{name} is {shown(getattr(self, name))}; give an object of its kind.")
        for place in self.spill:
            if not isinstance(place, Place):
                raise InputError(f"CacheParts.spill has {shown(place)}; give places, such as OnCPU(budget_bytes).")
        if self.rotated and (self.reindex != TruePositions() or self.summary is not None):
            raise InputError(
                "Rotated keys keep the positions that they were written at, and averages of them mean nothing; give "
                "rotated=False with reindex and summary."
            )
        if not self.rotated and any(isinstance(storage, Pruned) for storage in self.storages()):
            raise InputError("Pruned frames do not know which tokens they have, to rotate them; give rotated=True.")
        if self.rotated and any(isinstance(storage, Pooled) for storage in self.storages()):
            raise InputError("Means of rotated keys mean nothing; give rotated=False with Pooled.")

    def __repr__(self) -> str:
        # Published results are identified by it, so a part that came later is left out where it is not given.
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.select is None:
            del parts["select"]
        return f"CacheParts({', '.join(f'{name}={part!r}' for name, part in parts.items())})"

    def storages(self) -> Iterator[Storage]:
        """The storage of each place."""
        yield self.storage
        yield from (place.storage for place in self.spill)

    def shared(self, branches: int) -> CacheParts:
        """The parts of one of so many branches, each with an equal share of the budgets."""
        return replace(self, spill=tuple(replace(p, budget_bytes=p.budget_bytes // branches) for p in self.spill))  # type: ignore[type-var]

    def stored_form(self) -> dict[str, Any]:
        """What must be equal where a session is saved and loaded, as JSON."""
        summary = None if self.summary is None else repr(self.summary)
        return {"storages": [repr(each) for each in self.storages()], "rotated": self.rotated, "summary": summary}
