"""The index that a bank keeps: in step with the bank, one file, rebuilt where it cannot be used."""

import hashlib
import json
import logging
import shutil

import numpy as np
import pytest
import torch

from memkit.banks import MemoryBank
from memkit.errors import BankError, InputError
from memkit.files.tensors import save_tensors
from memkit.retrievers.saved_index import KIND, read_saved
from memkit.retrievers.vectors import import_faiss
from tests.helpers.killed import DONE, KILLED, kills
from tests.helpers.letter_index import CAPTIONS, Letters, bank_at, index, same


@pytest.fixture
def bank(tmp_path):
    return bank_at(tmp_path / "bank", CAPTIONS)


def test_a_saved_index_is_used_again_and_only_new_clips_are_embedded(bank, caplog):
    first = Letters()
    built = index(bank, first)
    assert first.asked == ["abc", "bad", "cab bed", "head"]  # the empty one is left out, the equal one shared
    assert built.table.ids == ["clip0", "clip1", "clip3", "clip4", "clip5"]
    again = Letters()
    same(index(bank, again), built)
    assert again.asked == ["abc"]  # the check that the model is the same
    bank.add("new", torch.zeros(1, 1, 1, 1), "feed")
    bank.add("copy", torch.zeros(1, 1, 1, 1), "bad")
    grown = Letters()
    extended = index(MemoryBank.open(bank.path), grown)
    assert grown.asked == ["abc", "feed"]
    assert extended.table.ids[-2:] == ["new", "copy"]
    assert not caplog.records


def test_an_index_follows_a_bank_that_grows_in_use(bank):
    embed = Letters()
    live = index(bank, embed)
    embed.asked.clear()
    bank.add("new", torch.zeros(1, 1, 1, 1), "feed")
    live.refresh()
    live.refresh()
    assert embed.asked == ["feed"] and live.table.ids[-1] == "new" and len(live.vectors) == 6
    same(index(bank, Letters()), live)


def as_version_1(folder):
    """Make an index what memkit 0.1 wrote: a FAISS file, and a JSON file with its digest."""
    saved = read_saved(folder)
    assert saved is not None
    (folder / "index.safetensors").unlink()
    import_faiss().write_index(saved.vectors.faiss, str(folder / "vectors.faiss"))
    about = {"format": "memkit-index-1", **saved._asdict(), "ids": ["clip0", "clip1", "clip3", "clip4", "clip5"]}
    about["vectors"] = hashlib.sha256((folder / "vectors.faiss").read_bytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps(about))


def changed(name, change):
    """Damage to the file ``name``, where ``change`` is of its bytes."""

    def damage(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def last_bit(data):  # of a fraction, so that only the checksum tells
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


def resaved(**changes):
    def damage(folder):
        saved = read_saved(folder)
        assert saved is not None
        about = {name: value for name, value in saved._asdict().items() if name != "vectors"} | changes
        vectors = about.pop("vectors", torch.nn.functional.normalize(torch.ones(5, 8)))
        save_tensors(folder / "index.safetensors", KIND, "index", about, {"vectors": vectors})

    return damage


FILE = "index.safetensors"
DAMAGE = {
    "a flipped bit": changed(FILE, last_bit),
    "a cut file": changed(FILE, lambda data: data[:-4]),
    "an empty file": changed(FILE, lambda data: b""),
    "no safetensors": changed(FILE, lambda data: b"[1, 2]"),
    "another version": changed(FILE, lambda data: data.replace(b'version\\": 2', b'version\\": 3')),
    "no fingerprint": resaved(fingerprint=None),
    "settings of another type": resaved(settings=[]),
    "vectors of half precision": resaved(vectors=torch.ones(5, 8).half()),
    "one vector for all": resaved(vectors=torch.ones(8)),
    "vectors that are not unit": resaved(vectors=torch.ones(5, 8)),
    "more vectors than clips": resaved(vectors=torch.nn.functional.normalize(torch.ones(9, 8))),
    "vectors of another size": resaved(vectors=torch.nn.functional.normalize(torch.ones(5, 9))),
}
DAMAGE_OF_VERSION_1 = {
    "a flipped bit": changed("vectors.faiss", last_bit),
    "a cut file": changed("vectors.faiss", lambda data: data[:-4]),
    "an empty file": changed("vectors.faiss", lambda data: b""),
    "no vectors": lambda folder: (folder / "vectors.faiss").unlink(),
    "cut JSON": changed("index.json", lambda data: data[:-9]),
    "another JSON": changed("index.json", lambda data: b"[1, 2]"),
    "no ids": changed("index.json", lambda data: b'{"format": "memkit-index-1"}'),
    "deeply nested": changed("index.json", lambda data: b"[" * 100_000),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *(f"version 1: {name}" for name in DAMAGE_OF_VERSION_1)])
def test_a_damaged_index_is_rebuilt_and_said(bank, caplog, damage):
    built = index(bank, Letters())
    if damage in DAMAGE:
        DAMAGE[damage](built.folder)
    else:
        as_version_1(built.folder)
        DAMAGE_OF_VERSION_1[damage.removeprefix("version 1: ")](built.folder)
    embed = Letters()
    same(index(bank, embed), built)
    assert "head" in embed.asked
    assert [r.levelno for r in caplog.records] == [logging.WARNING] and "is rebuilt" in caplog.text
    caplog.clear()
    same(index(bank, Letters()), built)
    assert not caplog.records


def test_any_flipped_bit_is_found(bank, caplog):
    built = index(bank, Letters())
    data = (built.folder / FILE).read_bytes()
    for at in range(len(data)):
        (built.folder / FILE).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(InputError):
            read_saved(built.folder)


def test_an_index_of_two_files_is_used_and_replaced_when_the_bank_grows(bank, caplog):
    built = index(bank, Letters())
    as_version_1(built.folder)
    again = Letters()
    same(index(bank, again), built)
    assert again.asked == ["abc"]
    bank.add("new", torch.zeros(1, 1, 1, 1), "feed")
    grown = Letters()
    index(bank, grown)
    assert grown.asked == ["abc", "feed"] and not caplog.records
    assert [file.name for file in built.folder.iterdir()] == [FILE]


@pytest.mark.parametrize("version", [1, 2])
def test_killed_before_any_operation_on_files_the_saved_index_is_that_before_or_after(bank, caplog, version):
    """Five clips are there and a sixth comes; what is saved is never embedded again, and nothing is left behind."""
    built = index(bank, Letters())
    if version == 1:
        as_version_1(built.folder)
    bank.add("new", torch.zeros(1, 1, 1, 1), "feed")
    whole = index(bank_at(bank.path.parent / "whole", [*CAPTIONS, "feed"]), Letters())
    before, counts, code = bank.path.parent / "before", [], KILLED
    shutil.copytree(built.folder, before)

    def act_at(_):
        shutil.rmtree(built.folder)
        shutil.copytree(before, built.folder)
        return lambda: index(bank, Letters())

    for _number, code in kills(act_at):
        saved = read_saved(built.folder)
        assert saved is not None
        counts.append(len(saved.vectors))
        embed = Letters()
        np.testing.assert_array_equal(index(bank, embed).vectors.all(), whole.vectors.all())
        assert embed.asked == (["abc", "feed"] if counts[-1] == 5 else ["abc"]) and not caplog.records
        index(bank, Letters(), settings={"v": code})  # the next save sweeps what this one left
        caplog.clear()
        assert [file.name for file in built.folder.iterdir()] == [FILE]
    assert code == DONE and counts == sorted(counts) and {*counts} == {5, 6} and len(counts) > 8


def test_a_stale_index_is_rebuilt_and_said(bank, tmp_path, caplog):
    built = index(bank, Letters())
    index(bank, Letters(), settings={"v": 2})
    assert "not with" in caplog.text
    index(bank, Letters())
    caplog.clear()
    other = index(bank, Letters(shift=0.5))  # the same settings, another model
    assert "the model has changed" in caplog.text
    assert not np.allclose(other.vectors.rows(np.arange(5)), built.vectors.rows(np.arange(5)))
    caplog.clear()
    changed = bank_at(tmp_path / "changed", ["abc", "bad", "", "cab bed", "bad", "hedge"])
    other.folder.parent.rename(changed.path / "index")
    embed = Letters(shift=0.5)
    same(index(changed, embed), index(bank_at(tmp_path / "fresh", changed.captions), Letters(shift=0.5)))
    assert "clips have changed" in caplog.text and "hedge" in embed.asked


def test_an_index_tied_to_the_bank_is_stale_when_the_latents_change(tmp_path, caplog):
    index(bank_at(tmp_path / "one", CAPTIONS), Letters(), tied_to_bank=True)
    other = MemoryBank.create(tmp_path / "two")
    for i, caption in enumerate(CAPTIONS):
        other.add(f"clip{i}", torch.ones(1, 1, 1, 1), caption)
    (tmp_path / "one" / "index").rename(tmp_path / "two" / "index")
    index(other, Letters(), tied_to_bank=True)
    assert "content has changed" in caplog.text
    caplog.clear()
    index(other, Letters(), tied_to_bank=True)
    assert not caplog.records


def test_a_bank_that_cannot_be_written_is_searched_from_memory(bank, caplog):
    (bank.path / "index").write_text("in the way")  # also stops root, which permissions do not
    found = index(bank, Letters())
    assert len(found.vectors) == 5 and "stays in memory" in caplog.text
    assert (bank.path / "index").read_text() == "in the way"


def test_a_stopped_build_goes_on_from_where_it_was(bank, monkeypatch):
    monkeypatch.setattr("memkit.retrievers.index.SAVE_EVERY_SECONDS", -1.0)
    embed = Letters()
    embed.fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        index(bank, embed)
    rest = Letters()
    resumed = index(bank, rest)
    assert rest.asked == ["abc", "head"]
    assert not list(resumed.folder.glob(".*"))  # no temporary files
    same(resumed, index(bank_at(bank.path.parent / "whole", CAPTIONS), Letters()))


def test_a_clip_without_a_usable_vector_is_named(tmp_path):
    bank = bank_at(tmp_path / "bank", ["abc", "xyz"])  # no letter of the second counts
    with pytest.raises(BankError, match="'clip1'"):
        index(bank, Letters())
    bank = bank_at(tmp_path / "other", ["abc", "abc d"])
    with pytest.raises(BankError, match="'clip0'"):
        index(bank, lambda texts: torch.full((len(texts), 8), torch.nan))
