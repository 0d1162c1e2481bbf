"""A disk that is full at any byte: a typed error, and the state before; with room again, the writer goes on."""

import os
import resource
import shutil
import signal

import pytest
import torch

from memkit.banks import MemoryBank, join_banks
from memkit.banks.build import add_rows, bank_for
from memkit.banks.captions import Row
from memkit.errors import BankError
from tests.helpers.forked import code_of, process
from tests.helpers.letter_index import Letters, bank_at, index
from tests.helpers.small_banks import filled, latents


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def refused_beyond(size, act, match):
    """Make a call in a process whose files cannot grow beyond ``size``; whether it raised the error that it should."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            act()
        except BankError as error:
            assert match in str(error), error
            os._exit(3)

    code = code_of(process(limited))
    assert code in (0, 3)
    return code == 3


def add(path, block=False):
    bank = MemoryBank.open(path)
    if block:
        bank.__enter__()
    try:
        bank.add("new", latents(5), "a caption")
    finally:
        bank.__exit__()
        # what a block has gathered stays gathered, and is in the bank as long as the process lives
        assert len(bank) == len(MemoryBank.open(path)) + block * bool(bank._pending)


@pytest.mark.parametrize("block", [False, True])
def test_adding(tmp_path, block):
    before = filled(tmp_path / "before", 2).path
    outcomes = []
    for size in [*range(0, 900, 23), 2000]:
        path = shutil.copytree(before, tmp_path / str(size))
        outcomes.append(refused_beyond(size, lambda path=path: add(path, block), "Cannot write"))
        bank = MemoryBank.open(path)
        assert bank.verify().clips == len(bank) == (2 if outcomes[-1] else 3)
        assert not [file for file in path.rglob("*.partial")]
        if outcomes[-1]:
            add(path)
            assert MemoryBank.open(path).verify().clips == 3
    assert outcomes[0] and not outcomes[-1]


def test_creating(tmp_path):
    for size in (0, 1, 100, 300, 2000):
        path = tmp_path / str(size)
        if refused_beyond(size, lambda path=path: MemoryBank.create(path, {"a": "b" * 100}), "Cannot create a bank"):
            assert not (path / "bank.json").exists()
            MemoryBank.create(path)
        assert MemoryBank.open(path).verify().clips == 0


def test_joining(tmp_path):
    parts = [filled(tmp_path / "part", 2).path]
    other = MemoryBank.create(tmp_path / "other")
    other.add("other", latents(9), "")
    outcomes = []
    for size in [*range(0, 1500, 97), 5000]:
        path = shutil.copytree(other.path, tmp_path / str(size))
        outcomes.append(refused_beyond(size, lambda path=path: join_banks(parts, path, ["clip1", "clip0"]), "Cannot"))
        bank = MemoryBank.open(path)
        assert bank.verify().clips == len(bank) == (1 if outcomes[-1] else 3)
        assert {file.name for file in path.iterdir()} <= {"bank.json", "clips.jsonl", "shards", ".lock"}
        assert len(list((path / "shards").iterdir())) == len(bank)
        assert len(join_banks(parts, path)) == 3
    assert outcomes[0] and not outcomes[-1]


def test_building_ends_with_the_error_and_not_with_items(tmp_path):
    rows = [Row(n, tmp_path / id, "a caption", id, "film") for n, id in enumerate("abc")]

    def build():
        with bank_for(tmp_path / "b", {}) as bank:
            add_rows(bank, rows, lambda row: torch.zeros(1, 1, 8, 8), False)

    MemoryBank.create(tmp_path / "b")
    assert refused_beyond(400, build, "Cannot write")
    assert MemoryBank.open(tmp_path / "b").verify().clips == 0
    build()
    assert MemoryBank.open(tmp_path / "b").verify().clips == 3


def test_an_index_stays_in_memory(tmp_path):
    bank = bank_at(tmp_path / "b", ["abc", "head"])

    def act():
        assert len(index(bank, Letters()).vectors) == 2

    for size in (0, 100, 400):
        assert not refused_beyond(size, act, "")
        assert not [file for file in bank.path.rglob("*") if "index" in file.name and file.is_file()]
    index(bank, Letters())
    assert (bank.path / "index" / "letters" / "index.safetensors").exists()
