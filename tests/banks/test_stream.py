"""A bank that is exported and streamed is the same, clip by clip, once per epoch over all workers and processes."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import accelerate
import fsspec
import pytest
import safetensors.torch
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from memkit.banks import ClipStream, MemoryBank, export_tar, stack_clips
from memkit.errors import BankError, FileError, InputError
from tests.helpers.dying import dying_after
from tests.helpers.forked import code_of, process
from tests.helpers.launching import two_processes
from tests.helpers.small_banks import bits, cameras, latents

COUNT = 23
SIZE = 4 * latents(0).nbytes
"""Bytes of a shard of four clips."""


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """The death of a process, unlike that of a machine, loses nothing that was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> MemoryBank:
    bank = MemoryBank.create(tmp_path_factory.mktemp("bank") / "b", {"model": "m"})
    with bank:
        for n in range(COUNT):
            bank.add(f"a/{n}.mp4", latents(n), f"grüße {n}", f"film {n}", cameras(3, n) if n % 3 else None)
    return bank


@pytest.fixture(scope="module")
def folder(bank, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "tars"
    assert export_tar(bank, out, shard_bytes=SIZE) == 6
    return out


def ids(clips: Any) -> list[str]:
    return [clip.id for clip in clips]


def test_it_is_the_bank_bit_for_bit(bank, folder):
    stream = ClipStream(folder, seed=None)
    assert stream.info == bank.info and stream.fingerprint == bank.fingerprint and len(stream) == COUNT
    for one, other in zip(stream, bank, strict=True):
        assert (one.id, one.caption, one.source) == (other.id, other.caption, other.source)
        assert torch.equal(bits(one.latents), bits(other.latents)) and one.latents.dtype == other.latents.dtype
        assert (one.cameras is None) == (other.cameras is None)
        if one.cameras is not None and other.cameras is not None:
            assert torch.equal(bits(one.cameras.c2w), bits(other.cameras.c2w))
            assert torch.equal(bits(one.cameras.intrinsics), bits(other.cameras.intrinsics))


def test_webdataset_reads_the_shards(bank, folder):
    urls = sorted(map(str, folder.glob("*.tar")))
    for sample, clip in zip(webdataset.WebDataset(urls, shardshuffle=False), bank, strict=True):
        assert json.loads(sample["json"])["id"] == clip.id
        assert torch.equal(safetensors.torch.load(sample["safetensors"])["latents"], clip.latents)


@settings(max_examples=6, deadline=None)
@given(world=st.integers(1, 7), workers=st.integers(1, 5), seed=st.integers(0, 9) | st.none(), epoch=st.integers(0, 9))
def test_each_clip_comes_once_per_epoch_in_an_order_of_seed_and_epoch(bank, folder, world, workers, seed, epoch):
    shares = []
    for rank in range(world):
        stream = ClipStream(folder, seed, rank, world)
        stream.set_epoch(epoch)
        parts = []
        for worker in range(workers):
            with pytest.MonkeyPatch.context() as patch:
                info = type("Info", (), {"id": worker, "num_workers": workers})
                patch.setattr("memkit.banks.stream.get_worker_info", lambda info=info: info)
                parts += ids(stream)
        assert len(parts) == len(stream)
        shares.append(parts)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    one = ClipStream(folder, seed)
    one.set_epoch(epoch)
    assert sum(shares, []) == ids(one)  # one sequence, whoever reads it
    assert Counter(ids(one)) == Counter(bank.ids) and (ids(one) == bank.ids) == (seed is None)


def test_epochs_and_seeds_differ_also_for_workers_that_stay(folder):
    stream = ClipStream(folder, seed=3)
    loader = DataLoader(stream, batch_size=4, num_workers=2, persistent_workers=True, collate_fn=list)
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        epochs.append([id for clips in loader for id in ids(clips)])
    assert epochs[0] == epochs[2] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1]) == sorted(ids(stream))
    assert ids(ClipStream(folder, seed=4)) != ids(ClipStream(folder, seed=3))


def test_two_processes_of_accelerate_with_workers(bank, folder, tmp_path):
    def run() -> None:
        accelerator = accelerate.Accelerator(cpu=True)
        stream = ClipStream(folder, seed=1)
        clips = [clip for batch in DataLoader(stream, 3, num_workers=2, collate_fn=list) for clip in batch]
        assert len(clips) == len(stream) and stack_clips(clips)[0].shape == (len(stream), *clips[0].latents.shape)
        (tmp_path / f"{accelerator.process_index}.json").write_text(json.dumps(ids(clips)))
        accelerator.wait_for_everyone()

    two_processes(run, tmp_path)
    shares = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert Counter(shares[0] + shares[1]) == Counter(bank.ids) and [*map(len, shares)] == [11, 12]


def test_equal_exports_have_equal_bytes_and_a_seed_orders_them_anew(bank, folder, tmp_path):
    def content(path: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in path.iterdir() if file.name != ".lock"}

    export_tar(MemoryBank.open(f"file://{bank.path}"), tmp_path / "again", SIZE)
    assert content(tmp_path / "again") == content(folder)
    export_tar(bank, tmp_path / "mixed", SIZE, seed=5)
    mixed = ids(ClipStream(tmp_path / "mixed", seed=None))
    assert mixed != bank.ids and sorted(mixed) == sorted(bank.ids)


def test_an_export_killed_before_any_call_to_the_disk_goes_on(bank, folder, tmp_path):
    """And is refused until it is complete."""
    codes = []
    for n in (1, 4, 8, 19, 99):
        out = tmp_path / f"{n}"

        def dies(n=n, out=out):
            dying = dying_after(n)
            for name in ("replace", "open", "fsync"):
                setattr(os, name, dying(getattr(os, name)))
            export_tar(bank, out, SIZE)

        codes.append(code_of(process(dies)))
        if codes[-1]:
            with pytest.raises(BankError, match="There is no .*shards.jsonl|shards; repeat"):
                ClipStream(out)
        if out.exists() and (out / "shards.jsonl").exists() and n % 2:
            with open(out / "shards.jsonl", "ab") as rows:
                rows.write(b'{"shard": "0000')  # cut short
        assert export_tar(bank, out, SIZE) == 6 and ids(ClipStream(out, seed=None)) == bank.ids
        assert not [*out.glob(".*.partial")]
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and set(codes) == {0, 7}


def test_a_url_is_streamed(folder):
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/tars", recursive=True)
    try:
        assert ids(ClipStream("memory://tars", seed=2)) == ids(ClipStream(folder, seed=2))
        store.rm_file("/tars/000002.tar")
        with pytest.raises(BankError, match="memory://tars/000002.tar cannot be read"):
            list(ClipStream("memory://tars"))
    finally:
        store.rm("/tars", recursive=True)
    with pytest.raises(BankError, match="no memory://gone/shards.jsonl"):
        ClipStream("memory://gone")


def test_damage_is_named(bank, folder, tmp_path):
    def stream(change: Any) -> list[str]:
        out = tmp_path / "damaged"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
        change(out)
        return ids(ClipStream(out))

    def flip(out: Path) -> None:
        data = bytearray((out / "000003.tar").read_bytes())
        at = bytes(data).find(bytes(bits(bank.latents(["a/13.mp4"])).flatten().tolist()))
        data[at + 9] ^= 1
        (out / "000003.tar").write_bytes(data)

    def cut(out: Path) -> None:
        os.truncate(out / "000003.tar", 5000)

    def exchange(out: Path) -> None:
        shutil.copy(out / "000002.tar", out / "000003.tar")

    for change, match in ((flip, "a/13.mp4' does not match"), (cut, ""), (exchange, "in the place of")):
        with pytest.raises(BankError, match=f"000003.tar cannot be read .*{match}.*export the bank again"):
            stream(change)
    with pytest.raises(BankError, match="damaged"):
        stream(lambda out: (out / "shards.jsonl").write_bytes((folder / "shards.jsonl").read_bytes()[:-9] + b"\n"))
    with pytest.raises(BankError, match="5 of 6 shards; repeat"):
        rows = (folder / "shards.jsonl").read_bytes().splitlines(keepends=True)
        stream(lambda out: (out / "shards.jsonl").write_bytes(b"".join(rows[:-1])))


def test_what_cannot_be_exported_or_streamed(bank, folder, tmp_path):
    with pytest.raises(InputError, match="no clip"):
        export_tar(MemoryBank.create(tmp_path / "empty"), tmp_path / "out")
    with pytest.raises(BankError, match="another shard_bytes"):
        export_tar(bank, folder, SIZE + 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(BankError, match="not empty.*'x'"):
        export_tar(bank, tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(FileError):
        export_tar(bank, tmp_path / "file")
    wrong: Any
    for wrong in ({"rank": 0}, {"rank": 2, "world": 2}, {"seed": -1}, {"storage_options": {}}):
        with pytest.raises(InputError):
            ClipStream(folder, **wrong)
