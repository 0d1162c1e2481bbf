"""`Branches`: the histories of a `KVCache`, which share its budget."""

from __future__ import annotations

from collections.abc import Sequence

from memkit.errors import InputError
from memkit.injectors.kv_cache.slots import SlotCache


class Branches:
    """A `SlotCache` per name, each with an equal part of the budget in bytes.

    Raises:
        InputError: no name, one that comes twice, or no budget.
    """

    def __init__(self, budget_bytes: int, names: Sequence[str]) -> None:
        if not names or len(set(names)) != len(names):
            raise InputError(f"branches = {tuple(names)}; give each a name of its own, and at least one.")
        self.budget_bytes = budget_bytes
        self.by_name = {name: SlotCache(budget_bytes // len(names)) for name in names}

    def one(self, name: str | None = None) -> SlotCache:
        """The branch of that name; without a name, the only one. Raises `InputError` where that is not one."""
        if name is None and len(self.by_name) == 1:
            name = next(iter(self.by_name))
        if name not in self.by_name:
            raise InputError(f"There is no branch {name!r}; the cache has {list(self.by_name)}, name one of them.")
        return self.by_name[name]

    def check_layers(self, layers: int) -> None:
        """Raise `InputError` if a branch holds frames of another number of layers."""
        for name, branch in self.by_name.items():
            if branch.positions and branch.layers != layers:
                raise InputError(
                    f"Branch {name!r} holds frames of {branch.layers} layers, the transformers have {layers}; "
                    "attach those that wrote them, or reset() it."
                )
