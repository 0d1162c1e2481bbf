"""Banks that several processes fill, with items of any kind or from a caption file; bad items are reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from memkit.banks.bank import MemoryBank
from memkit.banks.build import BuildReport, VideoEncoder, bank_for, clip_settings, encode_rows
from memkit.banks.captions import BadItem, Row, read_captions
from memkit.banks.items import reason_of
from memkit.banks.parallel import fill_together

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
        add: ``add(bank, item)`` adds an item. An exception marks the item as bad; a `BankError` or a full disk ends
            the run.

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
                except Exception as error:  # what decoders and models raise has no end of types
                    bad[key] = reason_of(error)
                bank.flush()
        return True

    return None if fill_together(path, list(items), fill) is None else bad


def build_bank_together(
    videos: str | os.PathLike[str], captions: str | os.PathLike[str], out: Path, backbone: VideoEncoder, model: str
) -> BuildReport | None:
    """`build_bank`, with the work shared by the processes of a launch; None in all of them but rank 0.

    Raises what `build_bank` and `fill_together` raise.
    """
    rows, bad = read_captions(captions, videos)
    return fill_with_rows(out, rows, bad, backbone, clip_settings(backbone, model), fill_together)


def fill_with_rows(
    out: Path,
    rows: Sequence[Row],
    bad: Sequence[BadItem],
    encoder: VideoEncoder,
    settings: dict[str, Any],
    together: Callable[[Path, Sequence[str], Callable[[Path, Sequence[str]], BuildReport]], BuildReport | None],
) -> BuildReport | None:
    """Add the clips of ``rows`` to the bank ``out`` by ``together``, which is `fill_together` or anything like it.

    Returns what ``together`` returns, with the items of ``bad``.
    """
    by_id = {row.id: row for row in rows}
    before = set(MemoryBank.open(out).ids) if (out / "bank.json").exists() else set()

    def fill(into: Path, ids: Sequence[str]) -> BuildReport:
        with bank_for(into, settings) as bank:
            some = [by_id[id] for id in ids]
            return encode_rows(bank, some, encoder, settings, into == out)

    report = together(out, list(by_id), fill)
    if report is None:
        return None
    there = [*report.added, *report.present]
    added = [id for id in there if id not in before]
    return BuildReport(added, [id for id in there if id in before], sorted([*bad, *report.bad]))
