"""Banks joined are the bank that one writer would have made, linked where it can be, whole whenever it is killed."""

import os
import shutil
import tempfile
from itertools import groupby
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit import MemoryBank, join_banks
from memkit.errors import BankError, InputError
from tests.helpers.dying import dying_after
from tests.helpers.small_banks import cameras

INFO = {"model": "tiny", "fps": 8}


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """The death of a process, unlike that of a machine, loses nothing that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def fill(bank: MemoryBank, ids: str) -> None:
    """One shard; a clip is a function of its id, with cameras and half precision here and there."""
    with bank:
        for id in ids:
            n = ord(id)
            value = torch.randn(2, 3, 2, 1 + n % 2, generator=torch.Generator().manual_seed(n))
            posed = cameras(3, n) if n % 3 == 0 else None
            bank.add(id, value.half() if n % 5 == 0 else value, f"größe {id}", None if n % 7 == 0 else id, posed)


def made(path: Path, *shards: str, info: dict | None = None) -> Path:
    bank = MemoryBank.create(path, INFO if info is None else info)
    for ids in shards:
        fill(bank, ids)
    return path


def inodes(path: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted((path / "shards").iterdir())]


def same(path: Path, ids: str, scratch: Path) -> bool:
    """Whether the bank has these clips, in this order, to the bit."""
    bank = MemoryBank.open(path)
    assert bank.verify().clips == len(ids)
    return bank.fingerprint == MemoryBank.open(made(scratch, ids)).fingerprint


def test_parts_in_turn_are_linked_not_copied(tmp_path):
    parts = [made(tmp_path / "0", "abc", "d"), made(tmp_path / "1", "efg"), made(tmp_path / "2")]
    MemoryBank.create(tmp_path / "out", INFO)
    (tmp_path / "out" / "joining").mkdir()  # as a joining that was killed leaves it
    (tmp_path / "out" / "shards" / "000001.safetensors").touch()
    bank = join_banks(parts, tmp_path / "out")
    assert same(tmp_path / "out", "abcdefg", tmp_path / "whole") and bank.info == INFO
    assert inodes(tmp_path / "out") == inodes(parts[0]) + inodes(parts[1])
    for part in parts:
        shutil.rmtree(part)
    assert bank.verify().shards == 3 and not {p.name for p in bank.path.iterdir()} & {"joining"}
    fill(bank, "hi")
    assert same(tmp_path / "out", "abcdefghi", tmp_path / "more")


def test_shards_of_different_parts_alternate_and_stay_whole(tmp_path):
    parts = [made(tmp_path / "0", "ab", "ef", "g"), made(tmp_path / "1", "hi", "cd")]
    join_banks(parts, tmp_path / "out", "abcdefghi")
    assert same(tmp_path / "out", "abcdefghi", tmp_path / "whole")
    assert sorted(inodes(tmp_path / "out")) == sorted(inodes(parts[0]) + inodes(parts[1]))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_order_of_any_parts_onto_any_bank(data):
    """Equal to one bank filled in that order; a shard is linked just where its clips are neighbours in it."""
    ids = data.draw(st.permutations("abcdefghij"))
    had = data.draw(st.integers(0, 4))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 9)))), 10]
    shards = ["".join(ids[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    homes = data.draw(st.lists(st.integers(0, 2), min_size=len(shards), max_size=len(shards)))
    order = data.draw(st.permutations(ids) | st.just(sorted(ids)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [made(folder / f"{n}", *(s for s, h in zip(shards, homes, strict=True) if h == n)) for n in range(3)]
        if had:
            made(folder / "out", "".join(order[:had]))  # the same clips, so that they are left out
        join_banks(parts, folder / "out", order)
        assert same(folder / "out", "".join(order), folder / "whole")
        linked = set(inodes(folder / "out")) & {inode for part in parts for inode in inodes(part)}
        neighbours = [s for s in shards if s in "".join(order[had:])]
        assert len(linked) == len(neighbours)


def test_loose_clips_are_gathered_into_shards_of_limited_size(tmp_path, monkeypatch):
    parts = [made(tmp_path / "0", "bdfhjl"), made(tmp_path / "1", "acegik")]
    join_banks(parts, tmp_path / "one", "abcdefghijkl")
    assert MemoryBank.open(tmp_path / "one").verify().shards == 1
    monkeypatch.setattr("memkit.banks.join.SHARD_BYTES", 200)
    join_banks(parts, tmp_path / "many", "abcdefghijkl")
    assert same(tmp_path / "many", "abcdefghijkl", tmp_path / "whole")
    bank = MemoryBank.open(tmp_path / "many")
    sizes = [sum(bank.clip(e.id).latents.nbytes for e in g) for _, g in
             groupby(bank._manifest.entries.values(), key=lambda e: e.shard)]  # fmt: skip
    assert len(sizes) > 2 and all(200 <= size < 200 + 96 for size in sizes[:-1])


def test_where_links_are_not_possible_shards_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    part = made(tmp_path / "0", "abc", "d")
    join_banks([part], tmp_path / "out")
    assert same(tmp_path / "out", "abcd", tmp_path / "whole")
    assert not set(inodes(part)) & set(inodes(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out" / "shards").iterdir()) == [
        "000000.safetensors",
        "000001.safetensors",
    ]


def test_joining_twice_changes_nothing(tmp_path):
    parts = [made(tmp_path / "0", "ab"), made(tmp_path / "1", "cd")]
    join_banks(parts, tmp_path / "out")
    listed = (tmp_path / "out" / "clips.jsonl").read_bytes()
    join_banks(parts, tmp_path / "out")
    assert (tmp_path / "out" / "clips.jsonl").read_bytes() == listed


def test_what_cannot_be_joined_is_refused_and_nothing_changed(tmp_path):
    a, b = made(tmp_path / "a", "abc"), made(tmp_path / "b", "cd")
    other = made(tmp_path / "other", "xy", info={"model": "tiny", "fps": 16})
    more = made(tmp_path / "more", "xy", info={**INFO, "note": None})
    out = made(tmp_path / "out", "z")
    before = MemoryBank.open(out).fingerprint
    with pytest.raises(BankError, match=r"'c' is in .*a and in .*b"):
        join_banks([a, b], out)
    with pytest.raises(BankError, match=r"'a' is in"):
        join_banks([a, a], out)
    for part, match in ((other, "fps 8 and .*other with 16"), (more, "note None and .*more with None")):
        with pytest.raises(BankError, match=match):
            join_banks([a, part], out)
        with pytest.raises(BankError, match="equal settings"):
            join_banks([part], out)
    for order, match in (("ab", "'c', the order lacks it"), ("abcx", "'x', no part"), ("aabc", "more than once")):
        with pytest.raises(InputError, match=match):
            join_banks([a], out, order)
    with pytest.raises(InputError, match="no parts"):
        join_banks([], out)
    with pytest.raises(BankError, match="no bank at"):
        join_banks([a, tmp_path / "missing"], out)
    clash = MemoryBank.create(tmp_path / "clash", INFO)
    clash.add("z", torch.zeros(1, 1, 1, 1), "another")
    with pytest.raises(BankError, match="different clips of the id 'z'"):
        join_banks([a, clash.path], out)
    with MemoryBank.open(out) as writer:
        writer.add("y", torch.zeros(1, 1, 1, 1), "y")
        with pytest.raises(BankError, match="another process"):
            join_banks([a], out)
    out = shutil.copytree(tmp_path / "a", tmp_path / "short")
    os.truncate(out / "shards" / "000000.safetensors", 100)
    with pytest.raises(BankError, match="000000.safetensors is missing or not.*verify"):
        join_banks([out], tmp_path / "new")
    os.unlink(out / "shards" / "000000.safetensors")
    with pytest.raises(BankError, match="000000.safetensors is missing"):
        join_banks([out], tmp_path / "out")
    bank = MemoryBank.open(tmp_path / "out")
    assert bank.ids == ["z", "y"] and bank.verify().clips == 2 and len(MemoryBank.open(tmp_path / "new")) == 0
    assert MemoryBank.open(made(tmp_path / "again", "z")).fingerprint == before


@pytest.mark.parametrize("had", ["", "ab"])
def test_killed_before_any_call_to_the_disk_it_has_done_nothing_or_all(tmp_path, had):
    """The process dies before its n-th change of the disk, for every n: a reader sees no clip of the joining or all."""
    code, outcomes = None, []
    for n in range(60):
        folder = tmp_path / str(n)
        parts = [made(folder / "0", "ef", "cd"), made(folder / "1", "hg", "i")]
        if had:
            made(folder / "out", had)
        order = "cdefghi"
        child = os.fork()
        if child == 0:
            dying = dying_after(n)
            for name in ("fsync", "replace", "link", "unlink", "rmdir", "mkdir"):
                setattr(os, name, dying(getattr(os, name)))
            try:
                join_banks(parts, folder / "out", order)
                os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 7)
        if (folder / "out" / "bank.json").exists():
            bank = MemoryBank.open(folder / "out")
            assert bank.ids in ([*had], [*had, *order]) and bank.verify().clips == len(bank)
            outcomes.append(len(bank))
        join_banks(parts, folder / "out", order)
        assert same(folder / "out", had + order, folder / "whole")
        assert {p.name for p in (folder / "out").iterdir()} <= {"bank.json", "clips.jsonl", "shards", ".lock"}
        if code == 0:
            break
    assert code == 0 and {*outcomes} == {len(had), len(had) + 7} and len(outcomes) > 15
