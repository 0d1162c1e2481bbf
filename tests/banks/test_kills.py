"""Killed before any of its operations on files, a writer leaves what was there before or what it was to make."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from memkit.banks import MemoryBank, join_banks
from memkit.banks.build import add_rows, bank_for
from memkit.banks.captions import Row
from memkit.errors import InputError
from tests.helpers.killed import DONE, kills
from tests.helpers.small_banks import latents, without_checksums

INFO = {"model": "tiny", "fps": 8.0}


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """The death of a process, unlike that of a machine, loses nothing that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def made(path: Path, *shards: str) -> Path:
    """A bank with one shard per string and one clip per letter, which is a function of the letter."""
    with MemoryBank.create(path, INFO) as bank:
        for ids in shards:
            for id in ids:
                bank.add(id, latents(ord(id)), f"caption {id}", source=ids)
            bank.flush()
    return path


def ids_of(path: Path) -> str:
    """The clips of a sound bank, whose values are theirs."""
    bank = MemoryBank.open(path)
    assert bank.verify().clips == len(bank) and bank.info == INFO
    assert all(torch.equal(bank.clip(id).latents, latents(ord(id))) for id in bank.ids)
    return "".join(bank.ids)


def nothing_left(path: Path) -> bool:
    """Whether the folder has the files of a bank alone, and their header states all that is there."""
    names = {file.name for file in path.iterdir()}
    shards = {f"{number:06d}.safetensors" for number in range(MemoryBank.open(path).verify().shards)}
    lines = (path / "clips.jsonl").read_bytes()
    stated = MemoryBank.open(path)._manifest._stated
    return (
        names <= {"bank.json", "clips.jsonl", "shards", ".lock"}
        and {file.name for file in (path / "shards").iterdir()} == shards
        and stated is not None
        and stated.bytes == len(lines)
    )


def add_to(path: Path, ids: str) -> None:
    bank = MemoryBank.open(path)
    for id in ids:
        bank.add(id, latents(ord(id)), f"caption {id}")


def test_create(tmp_path):
    codes, ends = [], []
    for number, code in kills(lambda n: lambda: MemoryBank.create(tmp_path / str(n), INFO)):
        ends.append(code)
        path = tmp_path / str(number)
        codes.append((path / "bank.json").exists())
        if not codes[-1]:
            MemoryBank.create(path, INFO)
        assert ids_of(path) == ""
        add_to(path, "a")
        assert ids_of(path) == "a" and nothing_left(path)
    assert ends[-1] == DONE and codes == sorted(codes) and {*codes} == {False, True} and len(codes) > 15


@pytest.mark.parametrize(("block", "version"), [(False, "now"), (True, "now"), (True, "without checksums")])
def test_add(tmp_path, block, version):
    before = made(tmp_path / "before", "ab", "c")
    if version != "now":
        without_checksums(before)

    def act_at(number):
        path = shutil.copytree(before, tmp_path / str(number))

        def act():
            with MemoryBank.open(path) as bank:
                if not block:
                    bank.__exit__()
                bank.add("d", latents(ord("d")), "caption d")

        return act

    seen, ends = [], []
    for number, code in kills(act_at):
        ends.append(code)
        path = tmp_path / str(number)
        seen.append(ids_of(path))
        assert not [*path.glob(".bank.json*")] or seen[-1] == "abc"  # a reader removes what a killed writer left there
        if seen[-1] == "abc":
            add_to(path, "d")
        else:
            with pytest.raises(InputError, match="already"):
                add_to(path, "d")
        assert ids_of(path) == "abcd" and (version != "now" or nothing_left(path))
        add_to(path, "e")
        assert ids_of(path) == "abcde" and nothing_left(path)
    assert ends[-1] == DONE and seen == sorted(seen) and {*seen} == {"abc", "abcd"} and len(seen) > 25


def test_add_after_the_death_of_another_adder(tmp_path):
    """Twice killed between the line and the header: two lines are more than it states."""
    path = made(tmp_path / "bank", "a")
    header = (path / "bank.json").read_bytes()
    add_to(path, "bc")
    (path / "bank.json").write_bytes(header)
    assert ids_of(path) == "abc"
    (path / "shards" / "000002.safetensors").rename(tmp_path / "shard")
    with pytest.raises(Exception, match=r"Line 3 of .*clips.jsonl is damaged \(there is no shard 000002"):
        MemoryBank.open(path)
    (tmp_path / "shard").rename(path / "shards" / "000002.safetensors")
    add_to(path, "d")
    assert ids_of(path) == "abcd" and nothing_left(path)


def test_build(tmp_path):
    """Commits of one clip each; resumed, every clip that was committed is encoded no more."""
    rows = [Row(n, tmp_path / id, f"caption {id}", id, "film") for n, id in enumerate("ab")]

    def build(path, encoded):
        def encode(row):
            encoded.append(row.id)
            return latents(ord(row.id))

        with bank_for(path, INFO) as bank:
            for row in rows:
                assert not add_rows(bank, [row], encode, False).bad
                bank.flush()

    seen, ends = [], []
    for number, code in kills(lambda n: lambda: build(tmp_path / str(n), [])):
        ends.append(code)
        path = tmp_path / str(number)
        seen.append(ids_of(path) if (path / "bank.json").exists() else "")
        encoded: list[str] = []
        build(path, encoded)
        assert seen[-1] + "".join(encoded) == "ab" == ids_of(path)
        add_to(path, "c")
        assert ids_of(path) == "abc" and nothing_left(path)
    assert ends[-1] == DONE and seen == sorted(seen) and {*seen} == {"", "a", "ab"}


@pytest.mark.parametrize(
    ("had", "linked", "after"),
    [("ab", True, "joined again"), ("ab", True, "added to"), ("", False, "joined again")],
)
def test_join(tmp_path, had, linked, after, monkeypatch):
    """Two shards that stay whole and one of loose clips; afterwards the join is repeated, or something else is done."""

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    parts, order = [made(tmp_path / "0", "ef", "d"), made(tmp_path / "1", "hg")], "defgh"
    before = made(tmp_path / "before", had) if had else None

    def act_at(number):
        path = tmp_path / f"out{number}"
        if before is not None:
            shutil.copytree(before, path)
        return lambda: join_banks(parts, path, order)

    seen, ends = [], []
    for number, code in kills(act_at):
        ends.append(code)
        path = tmp_path / f"out{number}"
        seen.append(ids_of(path) if (path / "bank.json").exists() else had)
        if after == "joined again":
            join_banks(parts, path, order)
            assert ids_of(path) == had + order and nothing_left(path)
        else:
            add_to(path, "x")
            assert ids_of(path) == seen[-1] + "x" and nothing_left(path)
    assert ends[-1] == DONE and seen == sorted(seen) and {*seen} == {had, had + order} and len(seen) > 50
    assert ids_of(parts[0]) == "efd" and ids_of(parts[1]) == "hg"
