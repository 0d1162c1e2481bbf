"""A bank at a URL is the bank that was copied there: the same clips, checks and errors; and nothing writes to it."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import BankError, InputError
from tests.helpers.forked import code_of, process
from tests.helpers.small_banks import bits, cameras, latents


@pytest.fixture
def bank(tmp_path: Path) -> MemoryBank:
    """Three shards of two clips, some with cameras."""
    bank = MemoryBank.create(tmp_path / "bank", {"model": "m"}, shard_bytes=2 * latents(0).nbytes)
    with bank:
        for n in range(6):
            bank.add(f"clip/{n}.mp4", latents(n, dtype=torch.bfloat16), f"caption {n}", f"film {n // 2}",
                     cameras(3, n) if n % 2 else None)  # fmt: skip
            bank.flush() if n % 2 else None
    return bank


@pytest.fixture
def memory(bank):
    """The URL of a copy in fsspec's memory."""
    store = fsspec.filesystem("memory")
    store.put(f"{bank.path}", "/bucket/bank", recursive=True)
    yield "memory://bucket/bank"
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("kind", ["memory", "file", "cached"])
def test_it_is_the_bank(bank, memory, tmp_path, kind):
    options = {"simplecache": {"cache_storage": str(tmp_path / "cache")}} if kind == "cached" else None
    url = {"memory": memory, "file": f"file://{bank.path}", "cached": f"simplecache::{memory}"}[kind]
    remote = MemoryBank.open(url, storage_options=options)
    assert remote.fingerprint == bank.fingerprint and remote.info == bank.info and url in repr(remote)
    assert (remote.ids, remote.captions, remote.sources) == (bank.ids, bank.captions, bank.sources)
    assert torch.equal(bits(remote.latents(bank.ids[::-1])), bits(bank.latents(bank.ids[::-1])))
    for id in bank.ids:
        one, other = remote.clip(id), bank.clip(id)
        assert one.source == other.source and (one.cameras is None) == (other.cameras is None)
        if one.cameras is not None and other.cameras is not None:
            assert torch.equal(one.cameras.c2w, other.cameras.c2w)
    assert remote.verify() == bank.verify()


def test_a_clip_is_fetched_alone(bank, memory, monkeypatch):
    """What travels is the header of a shard, once, and the bytes of the clip."""
    remote, fetched = MemoryBank.open(memory), []
    store = type(fsspec.filesystem("memory"))
    plain = store.cat_file
    monkeypatch.setattr(store, "cat_file", lambda *a, **k: fetched.append(plain(*a, **k)) or fetched[-1])
    remote.latents(["clip/2.mp4"]), remote.latents(["clip/2.mp4"])
    assert [len(data) for data in fetched[1:]] == [bank.latents(["clip/2.mp4"]).nbytes] * 2


def test_nothing_writes_to_it(memory):
    remote = MemoryBank.open(memory)
    with pytest.raises(BankError, match="memory://bucket/bank was opened by its URL.*local bank"):
        remote.add("new", latents(9), "x")
    with pytest.raises(InputError, match="local folder, not to memory://new"):
        MemoryBank.create("memory://new")
    assert not [name for name in fsspec.filesystem("memory").find("/") if "new" in name]


def test_what_is_missing_or_damaged_is_named_by_its_url(bank, memory, tmp_path):
    store = fsspec.filesystem("memory")
    for url, match in (
        ("memory://bucket/nothing", "no memory://bucket/nothing/bank.json"),
        ("s4://bucket/bank", "s4://bucket/bank/bank.json cannot be read .*s4"),
    ):
        with pytest.raises(BankError, match=match):
            MemoryBank.open(url)
    with pytest.raises(InputError, match="local path"):
        MemoryBank.open(bank.path, storage_options={"anon": True})
    with pytest.raises(InputError, match="no clip 'x' in memory://bucket/bank"):
        MemoryBank.open(memory).clip("x")

    remote, shard = MemoryBank.open(memory), "/bucket/bank/shards/000001.safetensors"
    remote.latents(["clip/2.mp4", "clip/3.mp4"])  # whole then
    whole = store.cat_file(shard)
    last = next(i for i in range(len(whole) - 1, 0, -1) if whole[i])
    store.pipe_file(shard, whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    with pytest.raises(BankError, match="clip/[23].mp4' in memory://bucket/bank/shards/000001.safetensors is damaged"):
        remote.latents(["clip/2.mp4"]), remote.clip("clip/3.mp4")
    with pytest.raises(BankError, match="memory://bucket/bank has 1 damaged"):
        remote.verify()
    for content in (b"", whole[:60], b"\xff" * 200, (40).to_bytes(8, "little") + b"[" * 40 + whole):
        store.pipe_file(shard, content)
        with pytest.raises(BankError, match="memory://bucket/bank"):
            MemoryBank.open(memory).latents(["clip/2.mp4"])
    store.rm_file(shard)
    with pytest.raises(BankError, match="000001.safetensors"):
        MemoryBank.open(memory).verify()

    lines = store.cat_file("/bucket/bank/clips.jsonl")
    store.pipe_file("/bucket/bank/clips.jsonl", lines[: lines.find(b"\n") + 1])
    with pytest.raises(BankError, match="memory://bucket/bank/clips.jsonl is damaged"):
        MemoryBank.open(memory)


def test_a_fork_reads_and_leaves_the_copy_of_the_manifest(memory):
    opened = [MemoryBank.open(memory)]
    folder, first = opened[0].path, opened[0].latents(["clip/0.mp4"])

    def child() -> None:
        assert torch.equal(bits(opened.pop().latents(["clip/0.mp4"])), bits(first))

    assert code_of(process(child)) == 0 and (folder / "clips.jsonl").exists()
    opened.clear()
    assert not folder.exists()


def test_a_writer_may_be_between_a_line_and_the_header(bank, memory):
    """A line beyond those of the header counts where its shard is there: it is looked for at the URL."""
    store = fsspec.filesystem("memory")
    header = store.cat_file("/bucket/bank/bank.json")
    bank.add("later", latents(7), "x")
    store.put(f"{bank.path}/", "/bucket/bank", recursive=True)
    store.pipe_file("/bucket/bank/bank.json", header)
    assert MemoryBank.open(memory).ids == bank.ids
    store.rm_file("/bucket/bank/shards/000003.safetensors")
    with pytest.raises(BankError, match="no shard 000003"):
        MemoryBank.open(memory)
