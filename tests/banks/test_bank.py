"""The bank keeps every bit it was given, and nothing of what it was not."""

import os

import pytest
import torch

from memkit.banks import MemoryBank
from memkit.cameras import Cameras
from memkit.errors import BankError, InputError
from tests.helpers.small_banks import bits, cameras, filled, latents, without_checksums

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


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


def test_a_bank_is_iterated_and_indexed_in_order(tmp_path):
    bank = filled(tmp_path / "b", 4)
    with bank:
        bank.add("gathered", latents(4), "not committed yet")
        clips = list(bank)
        assert [clip.id for clip in clips] == bank.ids and len(clips) == len(bank) == 5
        for i, clip in enumerate(clips):
            for same in (bank[i], bank[i - 5], bank[clip.id], bank.clip(clip.id)):
                assert (same.id, same.caption) == (clip.id, clip.caption) and torch.equal(same.latents, clip.latents)
    assert "clip3" in bank and "clip9" not in bank
    for position in (5, -6):
        with pytest.raises(InputError, match=f"position {position} of .*from -5 to 4"):
            bank[position]
    with pytest.raises(InputError, match="empty"):
        MemoryBank.create(tmp_path / "e")[0]
    with pytest.raises(InputError, match="did you mean"):
        bank["clip_1"]


def test_a_bank_and_its_clips_say_what_they_hold(tmp_path):
    bank = MemoryBank.create(tmp_path / "b", {"model": "tiny", "fps": 8})
    assert repr(bank) == f"MemoryBank('{tmp_path / 'b'}': empty, model='tiny', fps=8)"
    bank.add("a", latents(0), "a ball", source="v", cameras=cameras(3))
    bank.add("b", latents(1), "a cube")
    bank.add("c", latents(1, (2, 3, 2, 4)).half(), "")
    two = "2 clips of [2, 3, 2, 2] fp32 and 1 clip of [2, 3, 2, 4] fp16"
    assert repr(bank) == f"MemoryBank('{tmp_path / 'b'}': {two}, model='tiny', fps=8)"
    for i in range(4):
        bank.add(f"d{i}", latents(1, (1, 1, 1, i + 2)), "")
    assert "and 1 clip of [1, 1, 1, 2] fp32 and 3 of other shapes, model" in repr(bank)
    assert repr(bank["a"]) == "Clip('a', 'a ball', latents [2, 3, 2, 2] float32, source 'v', cameras)"
    assert repr(bank["b"]) == "Clip('b', 'a cube', latents [2, 3, 2, 2] float32)"
    assert len(repr(MemoryBank.create(tmp_path / "long", {"notes": "x" * 1000}))) < 400


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
        ("scaled", latents(0), Cameras(cameras(3).c2w * 2, cameras(3).intrinsics), "'scaled': pose 0 is not a rigid"),
        ("pixels", latents(0), Cameras(cameras(3).c2w, cameras(3).intrinsics * 500), "'pixels': the intrinsics of c"),
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
    header = without_checksums(tmp_path / "b") / "bank.json"
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
