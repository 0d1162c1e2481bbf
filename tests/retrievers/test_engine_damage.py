"""Indices that are damaged, foreign, stopped halfway or too large: typed errors, warnings, never another result."""

import logging

import numpy as np
import pytest
import torch

from memkit.errors import BankError, FileError, InputError, MemkitError
from memkit.retrievers import Approximate, Exact, LanceDB, Qdrant, SavedIndex
from memkit.retrievers.engines import choice
from tests.helpers.letter_index import CAPTIONS, Letters, bank_at, index
from tests.helpers.vectors import brute_force, draw, only

COUNT = 3000
VECTORS = draw("clustered", COUNT, 16)
EVERY = np.ones(COUNT, bool)


def saved(folder, engine):
    vectors = engine.empty(folder, 16)
    vectors.add(VECTORS, [str(i) for i in range(COUNT)], [None] * COUNT)
    engine.write(folder, SavedIndex({"v": 1}, "bank", "contents", vectors))
    return engine


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 16
    file.write_bytes(data)


def vectors_of(engine, folder):
    found = engine.read(folder)
    assert found is not None
    return found.vectors


@pytest.mark.parametrize("damage", ["a flipped bit", "a cut file", "no file", "of other vectors"])
def test_codes_that_cannot_be_used_are_computed_anew(damage, tmp_path, caplog):
    engine = saved(tmp_path, Approximate(smallest=64))
    before = vectors_of(engine, tmp_path).search(VECTORS[7], 5, only(EVERY))
    codes = tmp_path / "codes.safetensors"
    if damage == "a flipped bit":
        flip(codes, len(codes.read_bytes()) // 2)
    elif damage == "a cut file":
        codes.write_bytes(codes.read_bytes()[:-9])
    elif damage == "no file":
        codes.unlink()
    else:
        (tmp_path / "index.safetensors").rename(tmp_path / "kept")
        Exact().write(tmp_path, SavedIndex({"v": 2}, "bank", "contents", flat := Exact().empty(tmp_path, 16)))
        flat.add(VECTORS)
        (tmp_path / "index.safetensors").unlink()
        Exact().write(tmp_path, SavedIndex({"v": 2}, "bank", "contents", flat))
    again = vectors_of(engine, tmp_path).search(VECTORS[7], 5, only(EVERY))
    assert again[0].tolist() == before[0].tolist()
    assert ("computed anew" in caplog.text) == (damage != "no file")
    caplog.clear()
    vectors_of(engine, tmp_path)
    assert not caplog.records


def test_a_damaged_vector_is_an_error_when_it_is_read_and_not_another_hit(tmp_path):
    engine = saved(tmp_path, Approximate(smallest=64))
    size = (tmp_path / "index.safetensors").stat().st_size
    flip(tmp_path / "index.safetensors", size - 4 * 16 * (COUNT - 7))
    with pytest.raises(FileError, match="damaged at row 7"):
        vectors_of(engine, tmp_path).search(VECTORS[7], 5, only(EVERY))
    (tmp_path / "codes.safetensors").unlink()  # then the file as a whole is compared
    with pytest.raises(FileError, match="checksum"):
        engine.read(tmp_path)


def test_exact_and_approximate_search_share_one_file(tmp_path):
    saved(tmp_path / "a", Approximate(smallest=64))
    saved(tmp_path / "e", Exact())
    one, other = ((tmp_path / name / "index.safetensors").read_bytes() for name in "ae")
    assert one[-4 * 16 * COUNT :] == other[-4 * 16 * COUNT :]
    rows, cosines = vectors_of(Exact(), tmp_path / "a").search(VECTORS[7], 5, only(EVERY))
    assert rows.tolist() == brute_force(VECTORS, VECTORS[7], 5, EVERY)[0]
    for folder in "ae":
        found = vectors_of(Approximate(smallest=64), tmp_path / folder).search(VECTORS[7], 5, only(EVERY))
        assert found[0].tolist() == rows.tolist() and found[1].tolist() == cosines.tolist()


@pytest.mark.parametrize("engine", [LanceDB(), Qdrant()], ids=["lancedb", "qdrant"])
def test_rows_of_a_stopped_build_are_embedded_again_and_lost_ones_are_noticed(engine, tmp_path, caplog):
    bank = bank_at(tmp_path / "bank", CAPTIONS)
    built = index(bank, Letters(), engine=engine)
    built.vectors.add(np.eye(8, dtype=np.float32)[:2], ["half", "done"], [None, None])  # no write follows
    embed = Letters()
    assert len(index(bank, embed, engine=engine).vectors) == 5 and embed.asked == ["abc"]
    if isinstance(engine, Qdrant):
        engine._connect(built.folder).delete_collection("memkit")
        expected = []
    else:
        import lancedb

        lancedb.connect(str(built.folder / "lancedb")).open_table("vectors").delete("row = 3")
        expected = [logging.WARNING]
    embed = Letters()
    assert len(index(bank, embed, engine=engine).vectors) == 5 and "head" in embed.asked
    assert [record.levelno for record in caplog.records] == expected
    if isinstance(engine, Qdrant):
        engine.close()


def test_two_retrievers_of_one_database_do_not_add_the_same_clips_twice(tmp_path, caplog):
    bank = bank_at(tmp_path / "bank", CAPTIONS)
    embed = Letters()
    one, other = index(bank, Letters(), engine=LanceDB()), index(bank, embed, engine=LanceDB())
    bank.add("new", latents := torch.zeros(1, 1, 1, 1), "feed")
    one.refresh()
    embed.asked.clear()
    other.refresh()
    assert embed.asked == ["abc"] and len(other.vectors) == len(one.vectors) == other.vectors.table.count_rows() == 6
    bank.add("newer", latents, "feed", "film")
    other.refresh()
    assert one.vectors.search(other.vectors.rows(np.array([6]))[0], 1, only(np.ones(6, bool)))[0].tolist() == [5]
    one.refresh()
    found = one.vectors.search(other.vectors.rows(np.array([6]))[0], 2, only(np.ones(7, bool)))[0].tolist()
    assert found == [5, 6] and not caplog.records  # equal letters, so equal vectors


def test_a_damaged_database_is_rebuilt_and_said(tmp_path, caplog):
    bank = bank_at(tmp_path / "bank", CAPTIONS)
    built = index(bank, Letters(), engine=LanceDB())
    for file in (built.folder / "lancedb" / "vectors.lance").rglob("*.*"):
        if file.is_file():
            file.write_bytes(b"junk")
    embed = Letters()
    assert len(index(bank, embed, engine=LanceDB()).vectors) == 5 and "head" in embed.asked
    assert "is rebuilt" in caplog.text and "LanceDB cannot use" in caplog.text


def test_what_others_have_stored_is_refused_and_stays(tmp_path):
    import lancedb
    from qdrant_client import models

    bank = bank_at(tmp_path / "bank", CAPTIONS)
    theirs = lancedb.connect(str(tmp_path / "db")).create_table("vectors", [{"text": "mine"}])
    with pytest.raises(InputError, match="memkit has not made"):
        index(bank, Letters(), engine=LanceDB(uri=str(tmp_path / "db")))
    assert theirs.count_rows() == 1
    index(bank, Letters(), engine=LanceDB(uri=str(tmp_path / "db"), table="clips"))
    engine = Qdrant(location=":memory:")
    client = engine._connect(tmp_path)
    config = models.VectorParams(size=8, distance=models.Distance.COSINE)
    client.create_collection("memkit", vectors_config=config)
    with pytest.raises(InputError, match="memkit has not made"):
        index(bank, Letters(), engine=engine)
    assert client.collection_exists("memkit")
    with pytest.raises(BankError, match="no-such-host"):
        index(bank, Letters(), engine=Qdrant(location="http://no-such-host.invalid:6333"))


def test_the_default_is_exact_up_to_a_size_and_lancedb_above(tmp_path, monkeypatch, caplog):
    assert choice.choose(tmp_path, 400_000, 768) == Exact()
    assert choice.choose(tmp_path, 2_000_000, 768) == LanceDB()
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert choice.choose(tmp_path, 2_000_000, 768) == Exact() and "memkit[lancedb]" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(choice, "IN_MEMORY", 100)
    bank = bank_at(tmp_path / "bank", CAPTIONS)
    built = index(bank, Letters())
    assert [path.name for path in built.folder.iterdir() if path.name != ".lock"] == ["lancedb"]
    monkeypatch.undo()
    embed = Letters()
    index(bank, embed)  # an index that is there keeps its engine
    assert embed.asked == ["abc"]
    index(small := bank_at(tmp_path / "small", CAPTIONS), Letters())
    monkeypatch.setattr(choice, "IN_MEMORY", 100)
    embed = Letters()
    index(small, embed)
    assert embed.asked == ["abc"] and not (small.path / "index" / "letters" / "lancedb").exists()


def test_a_missing_library_is_named_with_its_remedy(tmp_path, monkeypatch):
    bank = bank_at(tmp_path / "bank", CAPTIONS)
    for module, engine in (("lancedb", LanceDB()), ("qdrant_client", Qdrant())):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(MemkitError, match=r"pip install memkit\["):
            index(bank, Letters(), engine=engine)
