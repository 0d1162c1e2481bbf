"""A clip is compared with its checksum when it is read for the first time, not only by verify()."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from memkit.banks import MemoryBank, join_banks
from memkit.banks.entries import Entry
from memkit.errors import BankError
from tests.helpers.small_banks import bits, cameras, filled, latents

SHARD = "shards/000000.safetensors"


def made(path: Path) -> MemoryBank:
    with MemoryBank.create(path) as bank:
        for i in range(3):
            bank.add(f"clip{i}", latents(i), f"caption {i}", cameras=cameras(3, i))
    return bank


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_what_is_read_from_a_damaged_shard_is_what_was_written_or_an_error(place, flip, cut):
    with tempfile.TemporaryDirectory() as name:
        file = made(Path(name) / "b").path / SHARD
        data = bytearray(file.read_bytes())
        at = int(place * len(data))
        if cut:
            del data[at:]
        else:
            data[at] ^= flip
        file.write_bytes(data)
        bank, refused = MemoryBank.open(Path(name) / "b"), 0
        for i in range(3):
            for read in (lambda i=i: bank.clip(f"clip{i}").latents, lambda i=i: bank.latents([f"clip{i}"])[0, 0]):
                try:
                    assert torch.equal(bits(read()), bits(latents(i)))
                except BankError as error:
                    refused += 1
                    assert f"clip{i}" in str(error) or "000000.safetensors" in str(error)
                    assert "verify()" in str(error)
        with pytest.raises(BankError, match="000000.safetensors"):
            bank.verify()
        assert refused or not cut


def test_a_damaged_clip_is_named_with_its_shard_and_the_others_are_read(tmp_path):
    file = made(tmp_path / "b").path / SHARD
    data = file.read_bytes()
    at = data.index(latents(1).numpy().tobytes())
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    bank = MemoryBank.open(tmp_path / "b")
    for _ in range(2):  # and it stays refused
        with pytest.raises(BankError, match="'clip1' in .*000000.safetensors is damaged.*restore"):
            bank.clip("clip1")
    for i in (0, 2):
        assert torch.equal(bank.clip(f"clip{i}").latents, latents(i))
    with pytest.raises(BankError, match="clip1"):  # it is not copied into another bank
        join_banks([tmp_path / "b"], tmp_path / "out", ["clip1", "clip0", "clip2"])
    assert len(MemoryBank.open(tmp_path / "out")) == 0


def test_a_clip_is_compared_once(tmp_path, monkeypatch):
    compared, digest = [], Entry.digest
    monkeypatch.setattr(Entry, "digest", lambda entry, tensors: compared.append(entry.id) or digest(entry, tensors))
    made(tmp_path / "b")
    bank = MemoryBank.open(tmp_path / "b")
    compared.clear()
    for _ in range(3):
        bank.latents(["clip2", "clip0"])
        bank.clip("clip2")
    assert compared == ["clip2", "clip0"]


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.zeros(1)},
        {"clip0/latents": torch.zeros(1)},
        {"clip0/latents": latents(0).half()},
        {"clip0/latents": latents(1)},
        {"clip0/latents": torch.zeros(2, 3, 2, 2, dtype=torch.float8_e4m3fn)},
        {},
    ],
)
def test_another_safetensors_file_in_the_place_of_a_shard_is_refused(tmp_path, tensors):
    path = filled(tmp_path / "b").path
    save_file(tensors, path / SHARD)
    bank = MemoryBank.open(path)
    for read in (bank.verify, lambda: bank.clip("clip0"), lambda: bank.latents(["clip1", "clip0"])):
        with pytest.raises(BankError, match=r"clip0.*verify|clip0.*checksum"):
            read()


@pytest.mark.parametrize("kind", ["missing", "a folder", "empty", "text", "huge header", "another clip's"])
def test_what_is_no_shard_is_refused(tmp_path, kind):
    path = filled(tmp_path / "b").path
    (path / SHARD).unlink()
    if kind == "a folder":
        (path / SHARD).mkdir()
    elif kind == "another clip's":
        shutil.copy(path / "shards/000001.safetensors", path / SHARD)
    elif kind != "missing":
        content = {"empty": b"", "text": b"[1, 2]", "huge header": (2**60).to_bytes(8, "little") + b"{}"}[kind]
        (path / SHARD).write_bytes(content)
    bank = MemoryBank.open(path)
    for read in (bank.verify, lambda: bank.clip("clip0")):
        with pytest.raises(BankError, match="000000.safetensors|'clip0'"):
            read()
    assert torch.equal(bank.clip("clip1").latents, latents(1))
