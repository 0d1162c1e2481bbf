"""`Branches`: the branches of a `KVCache`, which share its budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from memkit.checks import check_budget, check_texts
from memkit.errors import InputError
from memkit.injectors.kv_cache.parts import CacheParts
from memkit.injectors.kv_cache.slots import SlotCache


class Branches:
    """One `SlotCache` per name, each with an equal share of the budget in bytes.

    Raises:
        InputError: there are no names, a name is repeated, or the budget is not positive, or more than the memory of
            this machine.
    """

    def __init__(
        self, budget_bytes: int, names: Sequence[str], layers: int = 0, parts: CacheParts | None = None
    ) -> None:
        check_budget("budget_bytes", budget_bytes)
        check_texts("branches", names)
        if not names or len(set(names)) != len(names):
            raise InputError(f"branches = {tuple(names)}; give at least one name, and each only once.")
        self.budget_bytes, self.layers = budget_bytes, layers
        self.parts = CacheParts() if parts is None else parts
        each = self.parts.shared(len(names))
        self.attached = False
        self.context: str | None = None
        """Name of the ``cache_context`` that a transformer is in, if it is attached or followed."""
        self.by_name = {name: SlotCache(budget_bytes // len(names), layers, each, name) for name in names}

    def one(self, name: str | None = None) -> SlotCache:
        """The branch with this name; see `name`."""
        return self.by_name[self.name(name)]

    def name(self, name: str | None = None) -> str:
        """The name itself; without one, that of the only branch, else of the open ``cache_context``.

        Raises:
            InputError: there is no such branch.
        """
        if name is None:
            name = next(iter(self.by_name)) if len(self.by_name) == 1 else self.context
        if name not in self.by_name:
            raise InputError(
                f"There is no branch {name!r}; the cache has {list(self.by_name)}, name one of them, or call the "
                "attached or followed transformer inside its cache_context of that name."
            )
        return name

    @contextmanager
    def in_context(self, name: str, _about: dict[str, Any]) -> Iterator[None]:
        """Inside, a transformer is in the ``cache_context`` of this name; see `memkit.backbones.cache_context`."""
        before, self.context = self.context, name
        try:
            yield
        finally:
            self.context = before

    def expect_layers(self, layers: int) -> None:
        """Prepare for transformers with this number of layers in all.

        Raises:
            InputError: the cache was made for another number, or a branch has frames with another number of layers.
        """
        if self.layers not in (0, layers):
            raise InputError(f"The cache was made with num_layers={self.layers}, the transformers have {layers}.")
        for name, branch in self.by_name.items():
            if branch.positions and branch.layers != layers:
                raise InputError(
                    f"Branch {name!r} holds frames of {branch.layers} layers, the transformers have {layers}; "
                    "attach the cache to the transformers that wrote them, or reset() it."
                )
        for branch in self.by_name.values():
            branch.expect_layers(layers)
