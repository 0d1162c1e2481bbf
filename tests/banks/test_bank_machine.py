"""The bank against a dict, through any sequence of adding, reopening and crashes."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memkit.banks import MemoryBank
from memkit.errors import InputError
from tests.helpers.small_banks import bits, cameras, latents

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class BankMachine(RuleBasedStateMachine):
    """The bank against a dict: `kept` is what is committed, `added` what a `with` block holds."""

    @initialize(shard_bytes=st.sampled_from([1, 200, 10_000]))
    def start(self, shard_bytes):
        self.folder = Path(tempfile.mkdtemp())
        self.shard_bytes = shard_bytes
        self.bank = MemoryBank.create(self.folder / "b", {"n": 1}, shard_bytes)
        self.clips: dict[str, tuple] = {}
        self.committed = 0
        self.inside = False

    def teardown(self):
        if hasattr(self, "folder"):
            if self.inside:
                self.bank.__exit__(None, None, None)
            shutil.rmtree(self.folder)

    def reread(self):
        self.bank = MemoryBank.open(self.folder / "b", self.shard_bytes)
        self.clips = dict(list(self.clips.items())[: self.committed])

    @rule(
        id=st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=4),
        dtype=st.sampled_from(list(DTYPES.values())),
        frames=st.integers(1, 2),
        caption=st.text(st.characters(codec="utf-8"), max_size=5),
        source=st.none() | st.text(st.characters(codec="utf-8"), max_size=3),
        cams=st.booleans(),
        seed=st.integers(0, 99),
    )
    def add(self, id, dtype, frames, caption, source, cams, seed):
        clip = (latents(seed, (1, frames, 2, 2), dtype), caption, source, cameras(frames, seed) if cams else None)
        if id in self.clips:
            with pytest.raises(InputError, match="already"):
                self.bank.add(id, *clip)
            return
        self.bank.add(id, *clip)
        self.clips[id] = clip
        if not self.inside:
            self.committed = len(self.clips)
        else:
            self.committed = len(MemoryBank.open(self.folder / "b"))
            if self.shard_bytes == 1:
                assert self.committed == len(self.clips)

    @precondition(lambda self: not self.inside)
    @rule()
    def enter(self):
        self.bank.__enter__()
        self.inside = True

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self):
        self.bank.__exit__(None, None, None)
        self.inside, self.committed = False, len(self.clips)

    @rule()
    def flush(self):
        self.bank.flush()
        self.committed = len(self.clips)

    @precondition(lambda self: not self.inside)
    @rule()
    def reopen(self):
        self.reread()

    @rule(stray=st.sampled_from(["", ".tmp"]), junk=st.binary(max_size=9), torn=st.integers(0, 400))
    def crash(self, stray, junk, torn):
        """The process is gone: buffers and lock with it, half a shard or a shard and half a line behind it."""
        self.bank._manifest.lock.release()
        self.inside = False
        path = self.folder / "b"
        shards = (path / "clips.jsonl").read_bytes().count(b"\n")
        (path / "shards" / f"{shards:06d}.safetensors{stray}").write_bytes(junk)
        if not stray:
            with open(path / "clips.jsonl", "ab") as file:
                file.write(json.dumps({"shard": "x" * 400}).encode()[:torn])
        self.reread()

    @precondition(lambda self: self.clips)
    @rule(data=st.data())
    def read(self, data):
        picked = data.draw(st.lists(st.sampled_from(list(self.clips)), min_size=1, max_size=3))
        want = [self.clips[id][0] for id in picked]
        if len({(w.shape, w.dtype) for w in want}) > 1:
            with pytest.raises(InputError, match="one shape"):
                self.bank.latents(picked)
        else:
            got = self.bank.latents(picked)
            assert torch.equal(bits(got[0]), bits(torch.stack(want)))

    @rule()
    def verify(self):
        assert self.bank.verify().clips == self.committed

    @invariant()
    def agrees(self):
        if not hasattr(self, "bank"):
            return
        assert self.bank.ids == list(self.clips) and len(self.bank) == len(self.clips)
        assert self.bank.captions == [clip[1] for clip in self.clips.values()]
        assert self.bank.sources == [clip[2] for clip in self.clips.values()]
        assert all(id in self.bank for id in self.clips) and "no such id" not in self.bank
        for id, (value, caption, source, given) in list(self.clips.items())[-2:]:
            clip = self.bank.clip(id)
            assert torch.equal(bits(clip.latents), bits(value)) and clip.latents.dtype == value.dtype
            assert (clip.caption, clip.source) == (caption, source)
            assert (clip.cameras is None) == (given is None)
            if given is not None and clip.cameras is not None:
                assert torch.equal(clip.cameras.c2w, given.c2w)


TestBankMachine = BankMachine.TestCase
TestBankMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
