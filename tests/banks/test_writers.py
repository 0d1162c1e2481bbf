"""A bank has one writer at a time: among objects, processes and their forks."""

import os
import shutil

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import BankError, InputError
from tests.helpers.small_banks import filled, latents


def test_one_writer_and_many_readers(tmp_path):
    first = filled(tmp_path / "b")
    second = MemoryBank.open(tmp_path / "b")
    with first, MemoryBank.open(tmp_path / "b") as reader:
        first.add("x", latents(7), "")
        assert reader.ids == ["clip0", "clip1", "clip2"] and torch.equal(reader.clip("clip1").latents, latents(1))
        with pytest.raises(BankError, match="another process.*wait"):
            second.add("y", latents(8), "")
    second.add("y", latents(8), "")  # it takes in what the first has written
    assert second.ids == ["clip0", "clip1", "clip2", "x", "y"] == MemoryBank.open(tmp_path / "b").ids
    with pytest.raises(InputError, match="'y' is in"):
        first.add("y", latents(9), "")
    assert torch.equal(first.clip("y").latents, latents(8))
    second.verify()


def test_a_bank_replaced_under_a_writer_is_not_mixed_with_the_old(tmp_path):
    old = filled(tmp_path / "b")
    shutil.rmtree(tmp_path / "b")
    new = filled(tmp_path / "b", 1)
    with pytest.raises(BankError, match="open it again"):
        old.add("x", latents(7), "")
    assert MemoryBank.open(tmp_path / "b").fingerprint == new.fingerprint


def test_a_clip_that_could_not_be_flushed_is_not_written_over_that_of_another(tmp_path):
    bank = filled(tmp_path / "b", 1)
    (tmp_path / "b" / "shards" / "000001.safetensors").mkdir()
    with pytest.raises(BankError, match="Cannot write"), bank:
        bank.add("x", latents(1), "mine")
    (tmp_path / "b" / "shards" / "000001.safetensors").rmdir()
    MemoryBank.open(tmp_path / "b").add("x", latents(2), "theirs")
    with pytest.raises(BankError, match="'x'.*open the bank again"):
        bank.flush()
    assert MemoryBank.open(tmp_path / "b").captions == ["caption 0", "theirs"]


def forked(call) -> int:
    """The exit code of a forked process: what ``call`` returns, or 9 if it raises."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(call())
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refused(call) -> int:
    """0 where ``call`` raises the error of a process forked from the writer."""
    try:
        call()
    except BankError as error:
        return 0 if "was forked" in str(error) and "open the bank again" in str(error) else 2
    return 1


def test_a_process_forked_from_the_writer_reads_but_does_not_write(tmp_path):
    """Else what it was told is committed would be written over by the writer, which does not know of it."""
    bank = MemoryBank.create(tmp_path / "b")
    with bank:
        bank.add("before", latents(0), "")
        bank.flush()
        bank.add("gathered", latents(1), "")
        assert forked(lambda: refused(lambda: bank.add("child", latents(2), ""))) == 0
        assert forked(lambda: refused(bank.flush)) == 0
        assert forked(lambda: int(not torch.equal(bank.clip("before").latents, latents(0)))) == 0
        assert forked(lambda: bank.__exit__() or 0) == 0  # leaves the block, and the lock and the clips to the writer
        with pytest.raises(BankError, match="another process"):
            MemoryBank.open(tmp_path / "b").add("other", latents(3), "")
        bank.add("after", latents(4), "")
    again = MemoryBank.open(tmp_path / "b")
    assert again.ids == ["before", "gathered", "after"] and again.verify().clips == 3


def test_a_process_forked_from_the_writer_may_open_the_bank_and_write_when_the_writer_is_done(tmp_path):
    def child() -> int:
        own = MemoryBank.open(tmp_path / "b")
        with pytest.raises(BankError, match="another process"):
            own.add("child", latents(1), "")
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        own.add("child", latents(1), "")
        return 0

    ready, go = os.pipe(), os.pipe()
    bank = MemoryBank.create(tmp_path / "b")
    with bank:
        bank.add("parent", latents(0), "")
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(child())
            finally:
                os._exit(9)
        os.read(ready[0], 1)
    os.write(go[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert MemoryBank.open(tmp_path / "b").ids == ["parent", "child"]


def test_the_lock_ends_with_the_block_though_a_process_forked_inside_lives_on(tmp_path):
    alive = os.pipe()
    with MemoryBank.create(tmp_path / "b") as bank:
        bank.add("parent", latents(0), "")
        pid = os.fork()
        if pid == 0:
            os.read(alive[0], 1)
            os._exit(0)
    try:
        MemoryBank.open(tmp_path / "b").add("other", latents(1), "")
    finally:
        os.write(alive[1], b"x")
        os.waitpid(pid, 0)
    assert MemoryBank.open(tmp_path / "b").ids == ["parent", "other"]
