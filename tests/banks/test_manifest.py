"""The manifest and the header of a bank: what was cut, changed or replaced is named, and never written over."""

import hashlib
import json
import shutil

import pytest

from memkit.banks import MemoryBank, join_banks
from memkit.banks.entries import Entry, Shard, to_line
from memkit.errors import BankError
from memkit.files.json_files import write_json
from tests.helpers.small_banks import cameras, filled, latents, without_checksums

DIGEST = "0" * 64


def contents(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "b"
    MemoryBank.create(path, {"model": "tiny", "größe": [1, None]}).add("ö", latents(9), "a", "v", cameras(3))
    for i in range(3):
        MemoryBank.open(path).add(f"clip{i}", latents(i), f"caption {i}")
    return path


@pytest.fixture
def bank(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "b")


def test_a_manifest_cut_anywhere_is_noticed_and_not_written_to(bank):
    """Also at the end of a line, where it looks like that of a smaller bank."""
    file, was_open = bank / "clips.jsonl", MemoryBank.open(bank)
    whole = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")][:-1]
    for size in (0, *ends, *range(1, len(whole), 41), len(whole) - 1):
        file.write_bytes(whole[:size])
        before = contents(bank)
        with pytest.raises(BankError, match="clips.jsonl is damaged: bank.json states 4 lines.*from a copy"):
            MemoryBank.open(bank)
        with pytest.raises(BankError, match="clips.jsonl is damaged"):
            was_open.verify()
        with pytest.raises(BankError, match="open it again"):
            was_open.add("new", latents(7), "")
        assert contents(bank) == before
    file.write_bytes(whole)
    assert was_open.verify().clips == 4
    was_open.add("new", latents(7), "")


@pytest.mark.parametrize("name", ["clips.jsonl", "bank.json"])
def test_any_flipped_bit_is_found(bank, name):
    file, was_open = bank / name, MemoryBank.open(bank)
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(BankError, match=str(bank)):
            MemoryBank.open(bank)
        if at % 50 == 0:
            with pytest.raises(BankError, match=name.replace(".", r"\.")):
                was_open.verify()


def test_lines_in_another_order_or_of_another_bank_are_refused(bank, tmp_path):
    file = bank / "clips.jsonl"
    whole = file.read_bytes()
    other = filled(tmp_path / "other", 4).path / "clips.jsonl"
    file.write_bytes(other.read_bytes())  # sound lines, of other clips
    with pytest.raises(BankError, match="clips.jsonl is damaged: bank.json states 4 lines"):
        MemoryBank.open(bank)
    first, second, *rest = whole.splitlines(keepends=True)
    file.write_bytes(b"".join([second, first, *rest]))
    with pytest.raises(BankError, match="Line 1 of .* out of order"):
        MemoryBank.open(bank)


def test_readers_see_whole_commits_while_another_appends(bank):
    """Also between the line and the header, where the header is behind."""
    header = (bank / "bank.json").read_bytes()
    reader, writer = MemoryBank.open(bank), MemoryBank.open(bank)
    writer.add("x", latents(5), "")
    (bank / "bank.json").write_bytes(header)
    between = MemoryBank.open(bank)
    assert between.ids == [*reader.ids, "x"] and between.verify().clips == 5 and reader.verify().clips == 4
    writer.add("y", latents(6), "")  # the header now states more than ``reader`` and ``between`` have read
    between.add("z", latents(7), "")
    assert between.ids == [*reader.ids, "x", "y", "z"] == MemoryBank.open(bank).ids
    header = (bank / "bank.json").read_bytes()
    between.add("w", latents(8), "")
    (bank / "bank.json").write_bytes(header)  # and now less than ``between`` has read
    between.add("v", latents(9), "")
    assert MemoryBank.open(bank).ids == between.ids and between.verify().clips == 9


def test_a_bank_replaced_by_a_longer_one_is_not_mixed_with_the_old(tmp_path):
    old = filled(tmp_path / "b", 2)
    shutil.rmtree(tmp_path / "b")
    with MemoryBank.create(tmp_path / "b") as new:
        for i in range(9):
            new.add(f"other{i}", latents(i), "a caption that is longer than those of the old bank")
            new.flush()
    for use in (lambda: old.add("x", latents(7), ""), old.verify):
        with pytest.raises(BankError, match="open it again"):
            use()
    assert MemoryBank.open(tmp_path / "b").fingerprint == new.fingerprint


def test_a_bank_without_checksums_is_read_and_gets_them_with_the_next_clip(bank):
    before = MemoryBank.open(bank).fingerprint
    without_checksums(bank)
    assert MemoryBank.open(bank).verify().clips == 4 and MemoryBank.open(bank).fingerprint == before
    MemoryBank.open(bank).add("new", latents(7), "")
    assert MemoryBank.open(bank).verify().clips == 5
    lines = (bank / "clips.jsonl").read_bytes()
    stated = json.loads((bank / "bank.json").read_bytes())["committed"]
    assert stated == {"lines": 5, "bytes": len(lines), "sha256": hashlib.sha256(lines).hexdigest()}
    (bank / "clips.jsonl").write_bytes(lines.replace(b"caption 1", b"caption 7"))  # in a line without a checksum
    with pytest.raises(BankError, match="clips.jsonl is damaged: bank.json states 5 lines"):
        MemoryBank.open(bank)


# Shards that no line names


def test_a_shard_that_an_interrupted_write_left_is_named_and_replaced(bank, caplog):
    (bank / "shards" / "000004.safetensors").write_bytes(b"half a shard")
    assert MemoryBank.open(bank).verify().clips == 4 and "000004.safetensors is of an unfinished write" in caplog.text
    MemoryBank.open(bank).add("new", latents(7), "")
    caplog.clear()
    assert MemoryBank.open(bank).verify().clips == 5 and not caplog.records


def test_later_shards_are_named_and_never_written_over(bank, tmp_path):
    """An older manifest with its header, restored beside newer shards, is sound by itself."""
    old = {name: (bank / name).read_bytes() for name in ("bank.json", "clips.jsonl")}
    newer = MemoryBank.open(bank)
    for id in "xyz":
        newer.add(id, latents(ord(id)), "")
    new = {name: (bank / name).read_bytes() for name in ("bank.json", "clips.jsonl")}
    for name, content in old.items():
        (bank / name).write_bytes(content)
    shards = contents(bank / "shards")
    with pytest.raises(BankError, match="2 damaged items") as caught:
        MemoryBank.open(bank).verify()
    assert all(f"shard 00000{n}.safetensors: the manifest does not name it" in str(caught.value) for n in (5, 6))
    with pytest.raises(BankError, match="000005.safetensors is there.*Nothing was written.*move"):
        MemoryBank.open(bank).add("new", latents(7), "")
    part = MemoryBank.create(tmp_path / "part", MemoryBank.open(bank).info)
    part.add("part", latents(7), "")
    with pytest.raises(BankError, match="000005.safetensors is there"):
        join_banks([part.path], bank)
    (bank / "shards" / "000005.safetensors").rename(bank / "away")
    with pytest.raises(BankError, match="000006.safetensors is there"):
        join_banks([part.path], bank)
    (bank / "away").rename(bank / "shards" / "000005.safetensors")
    assert contents(bank / "shards") == shards and MemoryBank.open(bank).ids == ["ö", "clip0", "clip1", "clip2"]
    for name, content in new.items():
        (bank / name).write_bytes(content)
    assert MemoryBank.open(bank).verify().clips == 7


@pytest.mark.parametrize("lost", [("bank.json",), ("bank.json", "clips.jsonl")])
def test_a_new_bank_is_not_created_over_clips_that_lost_their_header(bank, lost):
    for name in lost:
        (bank / name).unlink()
    before = contents(bank)
    if lost == ("bank.json",):
        with pytest.raises(BankError, match="has lost its bank.json"):
            MemoryBank.open(bank)
    with pytest.raises(BankError, match="has lost its bank.json"):
        MemoryBank.create(bank)
    assert contents(bank) == before


# What a header and a line may be


HEADERS = {
    "cut": b'{"format": "memkit-bank", "ver',
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a list": b"[1, 2]",
    "not UTF-8": b'{"format": "\xff"}',
    "empty": b"",
    "NaN": b'{"format": "memkit-bank", "version": 1, "info": {"fps": NaN}}',
    "a huge number": b'{"format": "memkit-bank", "version": 1, "info": {"fps": 1' + b"0" * 5000 + b"}}",
    "no info": b'{"format": "memkit-bank", "version": 1}',
    "info a list": b'{"format": "memkit-bank", "version": 1, "info": [1]}',
    "info a text": b'{"format": "memkit-bank", "version": 1, "info": "fps"}',
    "no format": b'{"version": 1, "info": {}}',
    "format a list": b'{"format": ["memkit-bank"], "version": 1, "info": {}}',
    "version a text": b'{"format": "memkit-bank", "version": "1", "info": {}}',
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_of_wrong_content_is_named(bank, header):
    (bank / "bank.json").write_bytes(HEADERS[header])
    with pytest.raises(BankError, match=r"bank.json|of format"):
        MemoryBank.open(bank)


@pytest.mark.parametrize(
    "changes",
    [{"lines": -1}, {"lines": True}, {"bytes": 10**30}, {"bytes": "1"}, {"sha256": 5}, {"sha256": "x"}, {"more": 1}],
)
def test_a_header_that_states_what_cannot_be_is_named(bank, changes):
    content = json.loads((bank / "bank.json").read_bytes())
    content["committed"] |= changes
    write_json(bank / "bank.json", content)
    with pytest.raises(BankError, match="is damaged"):
        MemoryBank.open(bank)


CLIP = {
    "id": "a", "caption": "c", "source": None, "shape": [1, 1, 1, 1], "dtype": "fp32", "cameras": False,
    "sha256": DIGEST,
}  # fmt: skip
LINES = [
    ({"shard": "../../etc/passwd"}, {}, "out of order"),
    ({"shard": 5}, {}, "out of order"),
    ({"shard": ["000000.safetensors"]}, {}, "out of order"),
    ({"bytes": -1}, {}, "size"),
    ({"bytes": True}, {}, "size"),
    ({"bytes": 1e9}, {}, "size"),
    ({"bytes": "99"}, {}, "size"),
    ({"sha256": None}, {}, "size or the checksum"),
    ({"sha256": "g" * 64}, {}, "size or the checksum"),
    ({"clips": []}, {}, "does not describe"),
    ({"clips": {}}, {}, "does not describe"),
    ({"clips": ["a"]}, {}, "lacks a field"),
    ({"clips": None}, {}, "does not describe"),
    ({"more": 1}, {}, "does not describe"),
    ({}, {"id": 5}, "must be texts"),
    ({}, {"id": ""}, "cannot be the id"),
    ({}, {"id": "a\nb"}, "cannot be the id"),
    ({}, {"id": None}, "must be texts"),
    ({}, {"caption": None}, "must be texts"),
    ({}, {"caption": ["c"]}, "must be texts"),
    ({}, {"source": 5}, "source must be a text"),
    ({}, {"shape": [1, 1, 1]}, "no shape"),
    ({}, {"shape": [1, 1, 1, -1]}, "no shape"),
    ({}, {"shape": [1, 1, 1, 0]}, "no shape"),
    ({}, {"shape": [1, 1, 1, 1.0]}, "no shape"),
    ({}, {"shape": [1, 1, 1, True]}, "no shape"),
    ({}, {"shape": "1111"}, "no shape"),
    ({}, {"shape": None}, "no shape"),
    ({}, {"shape": [10**6, 10**6, 10**6, 10**6]}, "larger than its shard"),
    ({}, {"dtype": "fp31"}, "dtype"),
    ({}, {"dtype": ["fp32"]}, "dtype"),
    ({}, {"cameras": 1}, "cameras"),
    ({}, {"cameras": None}, "cameras"),
    ({}, {"sha256": ""}, "checksum"),
    ({}, {"shard": 7}, "lacks a field"),
]


@pytest.mark.parametrize(("shard", "clip", "match"), LINES, ids=[str(case[:2])[:60] for case in LINES])
def test_a_line_of_wrong_content_is_named(tmp_path, shard, clip, match):
    """In a bank without checksums: nothing but the types and ranges tells."""
    path = without_checksums(MemoryBank.create(tmp_path / "b").path)
    line = {"shard": "000000.safetensors", "bytes": 99, "sha256": DIGEST, "clips": [CLIP | clip]} | shard
    (path / "clips.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(BankError, match=rf"Line 1 of .*clips.jsonl is damaged \(.*{match}.*restore it"):
        MemoryBank.open(path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff", b"5", b'"a"', b"NaN", b"9" * 5000, b'{"shard": "\\ud800"}'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = without_checksums(MemoryBank.create(tmp_path / "b").path)
    (path / "clips.jsonl").write_bytes(line + b"\n")
    with pytest.raises(BankError, match="Line 1 of .*clips.jsonl is damaged"):
        MemoryBank.open(path)


def test_lone_surrogates_in_a_line_are_named(tmp_path):
    path = without_checksums(MemoryBank.create(tmp_path / "b").path)
    clip = CLIP | {"caption": "\ud800"}
    line = json.dumps({"shard": "000000.safetensors", "bytes": 99, "sha256": DIGEST, "clips": [clip]})
    (path / "clips.jsonl").write_text(line + "\n")
    with pytest.raises(BankError, match="not valid Unicode"):
        MemoryBank.open(path)


def test_a_line_with_a_checksum_of_its_own_is_checked_beyond_the_header(bank):
    """Lines that a killed writer has added are not in the header, and yet a flipped bit is found."""
    entry = Entry("new", "caption", None, [1, 1, 1, 1], "fp32", False, DIGEST)
    data = (bank / "shards" / "000000.safetensors").read_bytes()
    (bank / "shards" / "000004.safetensors").write_bytes(data)
    line = to_line(Shard("000004.safetensors", len(data), hashlib.sha256(data).hexdigest()), [entry])
    whole = (bank / "clips.jsonl").read_bytes()
    (bank / "clips.jsonl").write_bytes(whole + line)
    assert MemoryBank.open(bank).ids[-1] == "new"
    for at in range(len(line) - 1):  # without its newline it is torn
        flipped = line[:at] + bytes([line[at] ^ 4]) + line[at + 1 :]
        (bank / "clips.jsonl").write_bytes(whole + flipped)
        with pytest.raises(BankError, match=r"Line 5 of .*clips.jsonl is damaged"):
            MemoryBank.open(bank)


@pytest.mark.parametrize("name", ["bank.json", "clips.jsonl", "shards"])
def test_what_is_no_file_or_no_folder_is_named(bank, name):
    shutil.move(bank / name, bank / "away")
    (bank / name).write_text("") if name == "shards" else (bank / name).mkdir()
    with pytest.raises(BankError, match=name):
        MemoryBank.open(bank).verify()
    with pytest.raises(BankError, match=name):
        MemoryBank.open(bank).add("new", latents(0), "")


def test_a_path_that_cannot_be_is_named():
    for call in (MemoryBank.open, MemoryBank.create):
        with pytest.raises(BankError, match="null byte"):
            call("a\0b")


def test_a_bank_of_a_newer_version_is_not_read(bank):
    write_json(bank / "bank.json", {"format": "memkit-bank", "version": 2, "info": {}})
    with pytest.raises(BankError, match="of format 'memkit-bank' 2, not memkit-bank 1"):
        MemoryBank.open(bank)
