"""A bank through crashes, full disks and damaged files: whole clips or none, and every damage is named."""

import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as given_by
from hypothesis import strategies as st

from memkit.banks import MemoryBank
from memkit.errors import BankError
from tests.helpers.dying import dying_after
from tests.helpers.small_banks import filled, latents, without_checksums


def last_line(path: Path) -> bytes:
    return (path / "clips.jsonl").read_bytes().splitlines(keepends=True)[-1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_by(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), named=st.booleans())
def test_any_corrupt_byte_of_a_shard_is_found(tmp_path, position, flip, named):
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    with MemoryBank.create(folder) as bank:
        for i in range(3):
            bank.add(f"clip{i}", latents(i), f"caption {i}")
    file = folder / "shards" / "000000.safetensors"
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little") if named else 0
    at = start + int(position * (len(data) - start))
    data[at] ^= flip
    file.write_bytes(data)
    with pytest.raises(BankError, match="000000.safetensors") as caught:
        MemoryBank.open(folder).verify()
    if named:  # a byte of the values, not of the header
        assert f"clip 'clip{(at - start) // latents(0).nbytes}'" in str(caught.value)
        assert "1 damaged item" in str(caught.value)


def test_a_change_of_the_header_alone_is_found(tmp_path):
    bank = MemoryBank.create(tmp_path / "b")
    bank.add("an id of this length has its header padded", latents(0), "")
    file = tmp_path / "b" / "shards" / "000000.safetensors"
    data = file.read_bytes()
    assert data.count(b"}} ") == 1
    file.write_bytes(data.replace(b"}} ", b"}}\n"))
    assert torch.equal(MemoryBank.open(tmp_path / "b").clip(bank.ids[0]).latents, latents(0))
    with pytest.raises(BankError, match="000000.safetensors: its header"):
        bank.verify()


def test_verify_lists_every_damaged_item(tmp_path):
    bank = filled(tmp_path / "b", 5)
    assert bank.verify()[:2] == (5, 5)
    shards = tmp_path / "b" / "shards"
    (shards / "000001.safetensors").unlink()
    os.truncate(shards / "000003.safetensors", 100)
    manifest = without_checksums(tmp_path / "b") / "clips.jsonl"  # with them, open() refuses it
    manifest.write_text(manifest.read_text().replace("caption 4", "caption 5"))
    with pytest.raises(BankError) as caught:
        MemoryBank.open(tmp_path / "b").verify()
    message = str(caught.value)
    assert "3 damaged items" in message and all(f"'clip{i}'" in message for i in (1, 3, 4)) and "'clip0'" not in message
    for id in ("clip1", "clip3"):
        with pytest.raises(BankError, match="verify"):
            MemoryBank.open(tmp_path / "b").clip(id)


def test_a_damaged_manifest_line_is_refused_not_dropped(tmp_path):
    filled(tmp_path / "b")
    manifest = tmp_path / "b" / "clips.jsonl"
    good = manifest.read_bytes()
    for bad in (good.replace(b"{", b"", 1), good + good, good.replace(b"fp32", b"fp31", 1), b"\0\n" + good):
        manifest.write_bytes(bad)
        with pytest.raises(BankError, match=r"Line \d of .*clips.jsonl is damaged"):
            MemoryBank.open(tmp_path / "b")


def test_every_torn_manifest_line_is_dropped_and_written_over(tmp_path):
    """As an interrupted write leaves it: the header is that of the line before."""
    header = (filled(tmp_path / "b", 2).path / "bank.json").read_bytes()
    MemoryBank.open(tmp_path / "b").add("clip2", latents(2), "caption 2")
    (tmp_path / "b" / "bank.json").write_bytes(header)
    manifest = tmp_path / "b" / "clips.jsonl"
    line, whole = last_line(tmp_path / "b"), manifest.read_bytes()
    for torn in range(1, len(line) + 1):
        manifest.write_bytes(whole[:-torn])
        assert MemoryBank.open(tmp_path / "b").ids == ["clip0", "clip1"]
    for torn in (1, 2, len(line) // 2, len(line)):
        folder = tmp_path / str(torn)
        shutil.copytree(tmp_path / "b", folder)
        (folder / "clips.jsonl").write_bytes(whole[:-torn])
        bank = MemoryBank.open(folder)
        bank.verify()
        bank.add("n", latents(5), "")
        again = MemoryBank.open(folder)
        assert again.ids == ["clip0", "clip1", "n"] and again.verify().clips == 3
        assert torch.equal(again.clip("n").latents, latents(5))
        assert last_line(folder).endswith(b"\n")


@pytest.mark.parametrize("block", [False, True])
def test_a_crash_before_any_call_to_the_disk_leaves_a_whole_bank(tmp_path, block):
    """The writer dies before its n-th change of the disk, for every n; the clip is wholly there or not at all."""
    outcomes, code, n = [], None, 0
    for n in range(20):
        folder = tmp_path / str(n)
        filled(folder, 2)
        child = os.fork()
        if child == 0:
            bank, dying = MemoryBank.open(folder), dying_after(n)
            os.fsync, os.replace = dying(os.fsync), dying(os.replace)
            if block:
                bank.__enter__()
            bank.add("new", latents(5), "")
            bank.__exit__()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        bank = MemoryBank.open(folder)
        assert bank.ids[:2] == ["clip0", "clip1"] and bank.ids[2:] in ([], ["new"])
        assert code == 7 or "new" in bank
        outcomes.append(len(bank))
        assert bank.verify().clips == len(bank)
        bank.add("after", latents(6), "")
        bank = MemoryBank.open(folder)
        assert bank.verify().clips == len(bank) and torch.equal(bank.clip("after").latents, latents(6))
        assert len(os.listdir(folder / "shards")) == bank.verify().shards
        if code == 0:
            break
    assert code == 0 and outcomes[0] == 2 and outcomes[-1] == 3 and n >= 4


def test_a_killed_writer_leaves_a_whole_bank(tmp_path):
    """SIGKILL at any time: what is there is a prefix of what was added, complete to the last bit."""
    for delay in (0.0, 0.01, 0.03, 0.06):
        folder = tmp_path / str(delay)
        MemoryBank.create(folder)
        child = os.fork()
        if child == 0:
            try:
                bank = MemoryBank.open(folder)
                for i in range(100_000):
                    bank.add(f"clip{i}", torch.full((2, 3, 2, 2), float(i)), str(i))
            finally:
                os._exit(1)
        try:
            while delay and not (folder / "clips.jsonl").stat().st_size:
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        bank = MemoryBank.open(folder)
        assert bank.ids == [f"clip{i}" for i in range(len(bank))] and (len(bank) or not delay)
        assert bank.verify().clips == len(bank)
        bank.add("after", latents(0), "")
        assert MemoryBank.open(folder).verify().clips == len(bank)
        names = {shard.name for shard in (folder / "shards").iterdir()}
        assert names == {json.loads(line)["shard"] for line in (folder / "clips.jsonl").read_bytes().splitlines()}


def test_a_write_that_the_disk_refuses_changes_nothing(tmp_path):
    bank = filled(tmp_path / "b")
    before = bank.fingerprint
    (tmp_path / "b" / "shards" / "000003.safetensors").mkdir()  # the shard cannot be written here
    with pytest.raises(BankError, match="Cannot write"):
        bank.add("x", latents(7), "")
    assert bank.fingerprint == before and "x" not in bank
    (tmp_path / "b" / "shards" / "000003.safetensors").rmdir()
    bank.add("y", latents(7), "")
    assert MemoryBank.open(tmp_path / "b").ids == ["clip0", "clip1", "clip2", "y"]
