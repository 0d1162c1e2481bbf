"""`Branches`: the branches of a `KVCache`, which share its budget."""

from __future__ import annotations

from collections.abc import Sequence

from memkit.errors import InputError
from memkit.injectors.kv_cache.slots import SlotCache


class Branches:
    """One `SlotCache` per name, each with an equal share of the budget in bytes.

    Raises:
        InputError: there are no names, a name is repeated, or the budget is not positive.
    """

    def __init__(self, budget_bytes: int, names: Sequence[str]) -> None:
        if not names or len(set(names)) != len(names):
            raise InputError(f"branches = {tuple(names)}; give at least one name, and each only once.")
        self.budget_bytes = budget_bytes
        self.by_name = {name: SlotCache(budget_bytes // len(names)) for name in names}

    def one(self, name: str | None = None) -> SlotCache:
        """The branch with this name; without a name, the only one. Raises `InputError` if there is no such branch."""
        if name is None and len(self.by_name) == 1:
            name = next(iter(self.by_name))
        if name not in self.by_name:
            raise InputError(f"There is no branch {name!r}; the cache has {list(self.by_name)}, name one of them.")
        return self.by_name[name]

    def check_layers(self, layers: int) -> None:
        """Raise `InputError` if a branch has frames with another number of layers."""
        for name, branch in self.by_name.items():
            if branch.positions and branch.layers != layers:
                raise InputError(
                    f"Branch {name!r} holds frames of {branch.layers} layers, the transformers have {layers}; "
                    "attach the cache to the transformers that wrote them, or reset() it."
                )
