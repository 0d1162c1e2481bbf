"""Any number of processes, stopped anywhere and started again, make the bank that one process makes, encoding once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.banks import MemoryBank, fill_together, parallel, parts_of
from memkit.errors import BankError, InputError
from tests.helpers.dying import dying_after
from tests.helpers.forked import code_of, process, wait_for

INFO = {"model": "m"}
IDS = [f"clip{n:02d}" for n in range(22)]


@pytest.fixture(scope="module", autouse=True)
def small_blocks_and_no_waiting_for_the_disk():
    """The death of a process, unlike that of a machine, loses nothing that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "BLOCK", 3)
        patch.setattr(os, "fsync", lambda _: None)
        yield


class Fill:
    """Adds clips that are functions of their ids, noting each in a log that processes share."""

    def __init__(self, log: Path, info: dict | None = None, before: Callable[[int], None] = lambda _: None) -> None:
        self.log, self.info, self.before, self.count = log, info or INFO, before, 0
        log.touch()

    def __call__(self, path: Path, ids: Sequence[str]) -> int:
        bank = MemoryBank.open(path) if (path / "bank.json").exists() else MemoryBank.create(path, self.info)
        if bank.info != self.info:
            raise BankError(f"{path} was made with {bank.info}")
        with bank:
            for n, id in enumerate([id for id in ids if id not in bank]):
                self.before(self.count)
                self.count += 1
                with open(self.log, "a") as log:
                    log.write(f"{id} {os.getpid()}\n")
                bank.add(id, torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(int(id[4:]))), id, id[:5])
                if n % 2:
                    bank.flush()
        return len(bank)

    @property
    def done(self) -> list[str]:
        return [line.split()[0] for line in self.log.read_text().splitlines()]


def launch(rank: int, world: int, out: Path, fill: Callable, ids: Sequence[str] = IDS) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(world))
        return fill_together(out, ids, fill)


def plain(folder: Path, had: Sequence[str] = (), ids: Sequence[str] = IDS) -> str:
    """Fingerprint of what one process makes, of a bank that has some clips."""
    fill = Fill(folder / "plain.log")
    if had:
        fill(folder / "plain", had)
    fill(folder / "plain", ids)
    return MemoryBank.open(folder / "plain").fingerprint


def finished(out: Path, fingerprint: str) -> bool:
    """The bank is whole and nothing else is left."""
    bank = MemoryBank.open(out)
    assert bank.verify().clips == len(bank) and [p.name for p in out.parent.glob(f"{out.name}*")] == [out.name]
    assert {p.name for p in out.iterdir()} <= {"bank.json", "clips.jsonl", "shards", ".lock"}
    assert len([*(out / "shards").iterdir()]) == bank.verify().shards
    return bank.fingerprint == fingerprint


def test_alone_it_is_the_call_itself(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    fill = Fill(tmp_path / "log", before=lambda _: finds.append([*tmp_path.glob("bank-*")]))
    finds: list = []
    assert fill_together(tmp_path / "bank", IDS, fill) == 22
    assert finished(tmp_path / "bank", plain(tmp_path)) and finds == [[]] * 22


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_launches_one_after_another_make_the_bank_of_one_process(data):
    """Each is stopped by the user at some clip, or goes as far as its rank does; every clip is encoded once."""
    had = sorted(data.draw(st.sets(st.sampled_from(IDS), max_size=6)))
    sizes = st.integers(1, 4).flatmap(lambda world: st.tuples(st.integers(0, world - 1), st.just(world)))
    launches = data.draw(st.lists(st.tuples(sizes, st.sampled_from([2, 3, 5]), st.integers(0, 12)), max_size=4))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill = Fill(folder / "log")
        if had:
            fill(folder / "bank", had)
        for (rank, world), block, stop in launches:

            def stopping(count, stop=stop):
                if count == stop:
                    raise KeyboardInterrupt

            fill.before, fill.count = stopping, 0
            try:
                parallel.BLOCK = block  # as if clips had come before these in the list
                assert (launch(rank, world, folder / "bank", fill) is None) == (rank > 0)
            except KeyboardInterrupt:
                assert fill.count == stop
        fill.before, parallel.BLOCK = lambda _: None, 3
        assert launch(0, 3, folder / "bank", fill) == 22
        assert sorted(fill.done) == IDS and finished(folder / "bank", plain(folder, had))


def test_processes_that_begin_at_once_create_one_bank(tmp_path):
    """The first waits before it creates the bank, for one that comes in between."""

    class Slow(Fill):
        def __call__(self, path: Path, ids: Sequence[str]) -> int:
            if path == tmp_path / "bank" and not (path / "bank.json").exists():
                (tmp_path / f"at-{os.getpid()}").touch()
                deadline = time.monotonic() + 0.3
                while len([*tmp_path.glob("at-*")]) < 2 and time.monotonic() < deadline:
                    time.sleep(0.01)
                MemoryBank.create(path, self.info)
            return super().__call__(path, ids)

    fill = Slow(tmp_path / "log")
    children = [process(lambda rank=rank: launch(rank, 2, tmp_path / "bank", fill)) for rank in range(2)]
    assert [code_of(child) for child in children] == [0, 0]
    assert MemoryBank.open(tmp_path / "bank").fingerprint == plain(tmp_path)


def test_processes_at_once_share_the_work(tmp_path):
    """Each waits at its first clip until all have one, so that none can do everything."""

    def together(count: int) -> None:
        if count == 0:
            (tmp_path / f"up-{os.getpid()}").touch()
            wait_for(lambda: len([*tmp_path.glob("up-*")]) == 3)

    fill = Fill(tmp_path / "log", before=together)
    children = [process(lambda rank=rank: launch(rank, 3, tmp_path / "bank", fill)) for rank in range(3)]
    assert [code_of(child) for child in children] == [0, 0, 0]
    assert sorted(fill.done) == IDS and len({line.split()[1] for line in fill.log.read_text().splitlines()}) == 3
    assert finished(tmp_path / "bank", plain(tmp_path))
    for rank in (1, 0):
        launch(rank, 2, tmp_path / "bank", fill)
    assert sorted(fill.done) == IDS and finished(tmp_path / "bank", plain(tmp_path))


def test_all_are_killed_and_two_go_on(tmp_path):
    """SIGKILL amid a block: what is committed is not encoded again."""
    out = tmp_path / "bank"

    def killed(count: int) -> None:
        if count == 5:  # the second block; the first two of its clips are committed
            os.kill(os.getpid(), signal.SIGKILL)

    for rank in range(3):
        child = process(lambda rank=rank: launch(rank, 3, out, Fill(tmp_path / "log", before=killed)))
        assert code_of(child) == -signal.SIGKILL
    committed = {id for part in parts_of(out) for id in part.ids}
    assert len(committed) == 15
    fill = Fill(tmp_path / "log")
    log = fill.done
    assert launch(1, 2, out, fill) is None and launch(0, 2, out, fill) == 22
    assert not committed & {*fill.done[len(log) :]} and {*fill.done} == {*IDS}
    assert finished(out, plain(tmp_path))


def test_rank_0_finishes_what_one_that_is_killed_has_left(tmp_path):
    """SIGKILL when all else is encoded and rank 0 waits."""
    out, fill = tmp_path / "bank", Fill(tmp_path / "log")

    def stuck(count: int) -> None:
        while count == 5:
            time.sleep(1)

    victim = process(lambda: launch(1, 3, out, Fill(tmp_path / "log", before=stuck)))
    try:
        wait_for(lambda: len(fill.done) == 5)
        rank_0 = process(lambda: launch(0, 3, out, fill))
        wait_for(lambda: len(fill.done) == 21)
        wait_for(lambda: len([*tmp_path.glob("bank-parts/*.done")]) == 7)
    finally:
        os.kill(victim, signal.SIGKILL)
    assert code_of(victim) == -signal.SIGKILL and code_of(rank_0) == 0
    assert sorted(fill.done) == IDS and finished(out, plain(tmp_path))


def test_killed_before_any_call_to_the_disk_it_goes_on(tmp_path, monkeypatch):
    """Rank 0 dies before its n-th change of the disk, for every n, in encoding, joining and removing."""
    monkeypatch.setattr(parallel, "BLOCK", 2)
    ids = IDS[:4]
    fingerprint, code, phases = plain(tmp_path, ids=ids), None, set()
    for n in range(200):
        out = tmp_path / str(n) / "bank"
        out.parent.mkdir()
        fill = Fill(out.parent / "log")

        def dies(n=n, out=out, fill=fill):
            dying = dying_after(n)
            for name in ("replace", "rename", "link", "unlink", "rmdir", "mkdir"):
                setattr(os, name, dying(getattr(os, name)))
            parallel.lock_descriptor = dying(parallel.lock_descriptor)
            launch(0, 2, out, fill, ids)

        code = code_of(process(dies))
        assert code in (0, 7)
        parts, whole = parts_of(out), [MemoryBank.open(out)] if (out / "bank.json").exists() else []
        committed = {id for bank in (*parts, *whole) if bank.verify() for id in bank.ids}
        phases.add((len(committed), len(whole[0]) if whole else None, len(parts)))
        log = fill.done
        assert launch(0, 1 if n % 2 else 3, out, fill, ids) == 4
        assert not committed & {*fill.done[len(log) :]} and finished(out, fingerprint)
        if code == 0:
            break
    # nothing yet; amid the blocks; all encoded; joined, with the parts still there; and without
    assert code == 0
    assert {(0, None, 0), (2, 0, 2), (4, 0, 2), (4, 4, 2), (4, 4, 0)} <= {*phases}


def test_a_process_that_hangs_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "PATIENCE", 0.1)
    folder, fill = tmp_path / "bank-parts", Fill(tmp_path / "log")
    hanging = parallel._lock(folder / "rank 1, process 7 on here 0123abcd.process")
    with (
        hanging,
        pytest.raises(BankError, match="rank 1, process 7 on here has committed nothing.*-parts.*goes on"),
    ):
        launch(0, 2, tmp_path / "bank", fill)
    assert "waiting for rank 1, process 7 on here" in capsys.readouterr().err
    assert launch(0, 2, tmp_path / "bank", fill) == 22
    assert sorted(fill.done) == IDS and finished(tmp_path / "bank", plain(tmp_path))


def test_other_settings_are_refused_before_anything_is_encoded(tmp_path):
    launch(1, 2, tmp_path / "bank", Fill(tmp_path / "log"))
    shutil.rmtree(tmp_path / "bank")  # the parts alone are left of it
    other = Fill(tmp_path / "other", {"model": "n"})
    for rank in (1, 0):
        with pytest.raises(BankError, match="bank-parts.*made with.*'m'.*'n'.*remove"):
            launch(rank, 2, tmp_path / "bank", other)
    shutil.rmtree(tmp_path / "bank-parts")
    shutil.rmtree(tmp_path / "bank")
    launch(0, 1, tmp_path / "bank", Fill(tmp_path / "log"))
    with pytest.raises(BankError, match="made with"):
        launch(0, 2, tmp_path / "bank", other)
    assert not other.done and len(MemoryBank.open(tmp_path / "bank")) == 22


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_ranks_that_cannot_be(tmp_path, rank, world, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match="torchrun"):
        fill_together(tmp_path / "bank", IDS, Fill(tmp_path / "log"))
