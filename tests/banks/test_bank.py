"""The bank keeps every bit it was given, and nothing of what it was not, through reopening, crashes and damage."""

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
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from memkit.errors import BankError, InputError
from tests.helpers.dying import dying_after

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def latents(seed: int, shape=(2, 3, 2, 2), dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def cameras(frames: int, seed: int = 0) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    return Cameras(torch.randn(frames, 4, 4, generator=generator), torch.randn(frames, 4, generator=generator))


def filled(path: Path, count: int = 3) -> MemoryBank:
    bank = MemoryBank.create(path)
    for i in range(count):
        bank.add(f"clip{i}", latents(i), f"caption {i}")
    return bank


def last_line(path: Path) -> bytes:
    return (path / "clips.jsonl").read_bytes().splitlines(keepends=True)[-1]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("reopen", [False, True])
def test_round_trip_is_bit_exact(tmp_path, dtype, reopen):
    finite = torch.randint(0, 2**16, (4096,), dtype=torch.int32).to(torch.int16).view(torch.bfloat16).to(dtype)
    value = torch.where(finite.isfinite(), finite, -torch.zeros((), dtype=dtype)).view(4, 4, 16, 16)
    given = cameras(4)
    bank = MemoryBank.create(tmp_path / "b", info={"model": "tiny", "fps": 8})
    bank.add("a", value.clone(), 'grüße, "quoted"\n', source="v", cameras=given)
    if reopen:
        bank = MemoryBank.open(tmp_path / "b")
    clip = bank.clip("a")
    assert clip.latents.dtype == dtype and torch.equal(bits(clip.latents), bits(value))
    assert clip.cameras is not None
    assert torch.equal(clip.cameras.c2w, given.c2w) and torch.equal(clip.cameras.intrinsics, given.intrinsics)
    assert (clip.id, clip.caption, clip.source) == ("a", 'grüße, "quoted"\n', "v")
    assert torch.equal(bits(bank.latents(["a"])[0, 0]), bits(value))
    assert bank.info == {"model": "tiny", "fps": 8}


def test_a_batch_of_lists_equals_its_rows(tmp_path):
    bank = filled(tmp_path / "b", 4)
    batch = bank.latents([["clip0", "clip3"], ["clip2", "clip0"]])
    assert batch.shape == (2, 2, 2, 3, 2, 2)
    for row, ids in zip(batch, [["clip0", "clip3"], ["clip2", "clip0"]], strict=True):
        assert torch.equal(row[None], bank.latents(ids))
        assert torch.equal(row, torch.stack([bank.clip(id).latents for id in ids]))


def test_latents_of_nothing(tmp_path):
    bank = MemoryBank.create(tmp_path / "b")
    assert bank.latents([]).shape == (1, 0, 0, 0, 0, 0)
    bank.add("a", latents(0).half(), "a")
    assert bank.latents([]).shape == (1, 0, 2, 3, 2, 2) and bank.latents([]).dtype == torch.float16
    assert bank.latents([[], []]).shape == (2, 0, 2, 3, 2, 2)


def test_bad_requests_name_the_clips_and_the_remedy(tmp_path):
    bank = filled(tmp_path / "b")
    bank.add("wide", latents(0, (2, 3, 2, 4)), "")
    bank.add("half", latents(0).half(), "")
    with pytest.raises(InputError, match=r"'clip0'.*\(2, 3, 2, 2\).*'wide'.*\(2, 3, 2, 4\).*one shape"):
        bank.latents(["clip0", "clip1", "wide"])
    with pytest.raises(InputError, match=r"'clip0'.*fp32.*'half'.*fp16"):
        bank.latents(["clip0", "half"])
    with pytest.raises(InputError, match="no clip 'clip_1'.*did you mean.*'clip1'"):
        bank.latents(["clip_1"])
    with pytest.raises(InputError, match="one length"):
        bank.latents([["clip0"], ["clip1", "clip2"]])
    with pytest.raises(InputError, match=r"latents\(\['clip0'\]\)"):
        bank.latents("clip0")


@pytest.mark.parametrize(
    ("id", "value", "given", "match"),
    [
        ("clip0", latents(0), None, "'clip0' is in .* already"),
        ("nan", latents(0).fill_(torch.nan), None, "'nan'.*not finite"),
        ("inf", latents(0).index_fill(1, torch.tensor(2), -torch.inf), None, "'inf'.*not finite"),
        ("flat", latents(0)[0], None, r"'flat'.*\[C, T, H, W\]"),
        ("empty", latents(0)[:, :0], None, "'empty'.*not empty"),
        ("int", latents(0).int(), None, "'int'.*int32.*convert"),
        ("", latents(0), None, "''.*printable"),
        ("a\tb", latents(0), None, "printable"),
        ("\udcff", latents(0), None, "Unicode"),
        ("cams", latents(0), cameras(5), "'cams' has 3 latent frames.*5, 4, 4"),
        ("nancam", latents(0), Cameras(torch.full((3, 4, 4), torch.nan), torch.ones(3, 4)), "'nancam'.*c2w.*finite"),
    ],
)
@pytest.mark.parametrize("buffered", [False, True])
def test_a_refused_clip_leaves_the_bank_as_it_was(tmp_path, id, value, given, match, buffered):
    bank = filled(tmp_path / "b", 1)
    before = bank.fingerprint
    if buffered:
        with bank, pytest.raises(InputError, match=match):
            bank.add(id, value, "x", cameras=given)
    else:
        with pytest.raises(InputError, match=match):
            bank.add(id, value, "x", cameras=given)
    assert bank.fingerprint == MemoryBank.open(tmp_path / "b").fingerprint == before
    bank.add("next", latents(9), "the bank goes on")
    assert MemoryBank.open(tmp_path / "b").ids == ["clip0", "next"]


def test_create_and_open_refuse_what_they_would_break(tmp_path):
    filled(tmp_path / "b")
    with pytest.raises(BankError, match="open it, or create"):
        MemoryBank.create(tmp_path / "b")
    with pytest.raises(BankError, match="no bank at"):
        MemoryBank.open(tmp_path / "missing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(BankError, match="thesis.tex"):
        MemoryBank.create(tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]
    with pytest.raises(BankError):
        MemoryBank.create(tmp_path / "other" / "thesis.tex")
    with pytest.raises(InputError, match="JSON"):
        MemoryBank.create(tmp_path / "c", info={"x": object()})
    header = tmp_path / "b" / "bank.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(BankError, match="99"):
        MemoryBank.open(tmp_path / "b")


def test_the_values_are_copied_in_and_out(tmp_path):
    value = latents(0)
    with MemoryBank.create(tmp_path / "b") as bank:
        bank.add("a", value, "")
        value.zero_()
        bank.clip("a").latents.zero_()
        assert torch.equal(bank.clip("a").latents, latents(0))
    bank.clip("a").latents.zero_()
    bank.latents(["a"]).zero_()
    assert torch.equal(bank.clip("a").latents, latents(0))


def test_buffered_clips_fill_shards_and_a_failing_block_keeps_them(tmp_path):
    with pytest.raises(ZeroDivisionError), MemoryBank.create(tmp_path / "b", shard_bytes=4 * latents(0).nbytes) as bank:
        for i in range(10):
            bank.add(f"clip{i}", latents(i), f"{i}")
            assert bank.clip(f"clip{i}").caption == f"{i}"
        assert len(MemoryBank.open(tmp_path / "b")) == 8  # two full shards are committed, the third is not yet
        _ = 1 / 0
    again = MemoryBank.open(tmp_path / "b")
    assert again.ids == [f"clip{i}" for i in range(10)] and again.verify().shards == 3
    single = filled(tmp_path / "c", 10)
    assert single.verify().shards == 10
    assert all(torch.equal(again.clip(id).latents, single.clip(id).latents) for id in single.ids)


def test_fingerprint_follows_content_not_shards(tmp_path):
    with MemoryBank.create(tmp_path / "one") as one:
        for i in range(3):
            one.add(f"clip{i}", latents(i), f"caption {i}")
    assert one.fingerprint == filled(tmp_path / "two").fingerprint == MemoryBank.open(tmp_path / "one").fingerprint
    seen = {one.fingerprint, MemoryBank.create(tmp_path / "e").fingerprint}
    variants = [
        ("i", latents(0), "c", None, None),
        ("j", latents(0), "c", None, None),
        ("i", latents(1), "c", None, None),
        ("i", latents(0), "d", None, None),
        ("i", latents(0), "c", "s", None),
        ("i", latents(0), "c", None, cameras(3)),
        ("i", latents(0), "c", None, cameras(3, 1)),
    ]
    for n, (id, value, caption, source, given) in enumerate(variants):
        bank = MemoryBank.create(tmp_path / f"v{n}")
        bank.add(id, value, caption, source, given)
        seen.add(bank.fingerprint)
    seen.add(MemoryBank.create(tmp_path / "f", info={"fps": 8}).fingerprint)
    assert len(seen) == 3 + len(variants)


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


def test_a_write_that_the_disk_refuses_changes_nothing(tmp_path):
    bank = filled(tmp_path / "b")
    before = bank.fingerprint
    (tmp_path / "b" / "shards" / "000003.safetensors.tmp").mkdir()  # the shard cannot be written here
    with pytest.raises(BankError, match="Cannot write"):
        bank.add("x", latents(7), "")
    assert bank.fingerprint == before and "x" not in bank
    (tmp_path / "b" / "shards" / "000003.safetensors.tmp").rmdir()
    bank.add("y", latents(7), "")
    assert MemoryBank.open(tmp_path / "b").ids == ["clip0", "clip1", "clip2", "y"]


def test_a_clip_that_could_not_be_flushed_is_not_written_over_that_of_another(tmp_path):
    bank = filled(tmp_path / "b", 1)
    (tmp_path / "b" / "shards" / "000001.safetensors.tmp").mkdir()
    with pytest.raises(BankError, match="Cannot write"), bank:
        bank.add("x", latents(1), "mine")
    (tmp_path / "b" / "shards" / "000001.safetensors.tmp").rmdir()
    MemoryBank.open(tmp_path / "b").add("x", latents(2), "theirs")
    with pytest.raises(BankError, match="'x'.*open the bank again"):
        bank.flush()
    assert MemoryBank.open(tmp_path / "b").captions == ["caption 0", "theirs"]


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
    manifest = tmp_path / "b" / "clips.jsonl"
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
    filled(tmp_path / "b")
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
        self.bank._manifest.unlock()
        self.inside = False
        path = self.folder / "b"
        shards = len((path / "clips.jsonl").read_bytes().splitlines())
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
