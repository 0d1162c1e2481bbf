"""Whatever an item raises is that item's failure, with its name; a full disk or the user ends the run."""

import errno
import re
from pathlib import Path

import pytest

from memkit.banks import MemoryBank, fill_bank
from memkit.banks.build import add_rows, bank_for
from memkit.banks.captions import Row
from memkit.errors import BankError, FileError, InputError, MediaError
from tests.helpers.small_banks import latents

ROWS = [Row(n, Path(id), f"caption {id}", id, "film") for n, id in enumerate("abcd")]


class Strange(Exception):
    """None of ours."""


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def wrapped(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


BAD = [
    (MediaError("no video"), "no video"),
    (InputError("not finite"), "not finite"),
    (KeyError("x"), "KeyError: 'x'"),
    (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
    (OSError(errno.EIO, "Input/output error"), "OSError: .*Input/output error"),
    (AssertionError(), "AssertionError"),
    (MemoryError(), "MemoryError"),
    (RecursionError("deep"), "RecursionError: deep"),
    (Strange("what"), "Strange: what"),
]
END = [
    (BankError("another process"), BankError),
    (full(), FileError),
    (wrapped(full(), InputError("Cannot write")), FileError),
    (wrapped(wrapped(full(), RuntimeError("libx264")), MediaError("Cannot write")), FileError),
    (KeyboardInterrupt(), KeyboardInterrupt),
]


def raising(error, at, id):
    if id == at:
        raise error
    return latents(ord(id))


def by_rows(path, error):
    with bank_for(path, {"n": 1}) as bank:
        report = add_rows(bank, ROWS, lambda row: raising(error, "b", row.id), False)
    return {item.name: item.reason for item in report.bad}


def by_items(path, error):
    def add(bank, id):
        bank.add(id, raising(error, "b", id), "")

    return fill_bank(path, {"n": 1}, {id: id for id in "abcd"}, lambda bank, id: id in bank, add)


@pytest.mark.parametrize("fill", [by_rows, by_items])
@pytest.mark.parametrize(("error", "reason"), BAD, ids=[type(case[0]).__name__ for case in BAD])
def test_an_item_that_raises_is_reported_and_the_others_are_added(tmp_path, fill, error, reason):
    bad = fill(tmp_path / "b", error)
    assert list(bad) == ["b"]
    assert re.search(reason, bad["b"])
    assert MemoryBank.open(tmp_path / "b").ids == ["a", "c", "d"]


@pytest.mark.parametrize("fill", [by_rows, by_items])
@pytest.mark.parametrize(("error", "kind"), END, ids=[str(n) for n in range(len(END))])
def test_what_concerns_all_items_ends_the_run_and_what_was_added_stays(tmp_path, fill, error, kind):
    with pytest.raises(kind):
        fill(tmp_path / "b", error)
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.ids == ["a"] and bank.verify().clips == 1
