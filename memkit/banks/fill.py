"""`fill_bank`: add items of any kind to a bank; those that cannot be used are reported, not fatal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from memkit.banks.bank import MemoryBank
from memkit.banks.build import bank_for
from memkit.banks.parallel import fill_together
from memkit.errors import BankError, MemkitError

Item = TypeVar("Item")


def fill_bank(
    path: Path,
    info: dict[str, Any],
    items: Mapping[str, Item],
    whole: Callable[[MemoryBank, str], bool],
    add: Callable[[MemoryBank, Item], None],
) -> dict[str, str] | None:
    """Add the items that the bank ``path`` lacks; the processes of a launch share the work (`fill_together`).

    Args:
        path: folder of the bank, which is created if needed.
        info: of the bank.
        items: by key, each the id of something that ``add`` writes for its item.
        whole: ``whole(bank, key)`` says whether an item is complete in the bank, as it is once ``add`` has returned.
        add: ``add(bank, item)`` adds an item. A `MemkitError` other than `BankError` marks the item as bad.

    Returns:
        The reason for each key that cannot be used; None in all processes but rank 0.

    Raises:
        BankError: the bank was made with another ``info``, or cannot be written.
    """
    bad: dict[str, str] = {}

    def fill(into: Path, some: Sequence[str]) -> bool:
        with bank_for(into, info) as bank:
            lack = [key for key in some if not whole(bank, key)]
            for key in tqdm(lack, desc=path.name, disable=into != path or not lack):
                try:
                    add(bank, items[key])
                except BankError:
                    raise
                except MemkitError as error:
                    bad[key] = str(error)
                bank.flush()
        return True

    return None if fill_together(path, list(items), fill) is None else bad
