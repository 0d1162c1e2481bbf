"""Search engines for vectors: one suite for all of them, against a search by brute force."""

import contextlib

import numpy as np
import pytest
import torch

from memkit.banks import MemoryBank
from memkit.retrievers import Approximate, Exact, LanceDB, Qdrant, SavedIndex
from memkit.retrievers.engines import approximate
from tests.helpers.letter_index import CAPTIONS, Letters, bank_at, index
from tests.helpers.vectors import brute_force, draw, only, unit

ENGINES = {
    "exact": lambda: Exact(),
    "approximate, in memory": lambda: Approximate(),
    "approximate": lambda: Approximate(smallest=64),
    "lancedb": lambda: LanceDB(),
    "lancedb, indexed": lambda: LanceDB(index_from=256, nprobes=0),
    "qdrant": lambda: Qdrant(),
    "qdrant in memory": lambda: Qdrant(location=":memory:"),
}
SAVED = [name for name in ENGINES if name != "qdrant in memory"]


@contextlib.contextmanager
def made(name):
    engine = ENGINES[name]()
    yield engine
    if isinstance(engine, Qdrant):
        engine.close()


def write(engine, folder, vectors):
    """Save an index, whose digest says how many rows it has."""
    engine.write(folder, SavedIndex({"v": 1}, "bank", str(len(vectors)), vectors))


def read(engine, folder):
    saved = engine.read(folder)
    assert saved is not None and saved.contents == str(len(saved.vectors))
    return saved.vectors


def check(vectors, index, seed, names, films):
    """The index finds what brute force does, for queries with other exclusions each."""
    rng = np.random.default_rng(seed)
    for query, k in zip(unit(rng.normal(size=(4, vectors.shape[1]))), (1, 3, 7, 2 * len(vectors)), strict=True):
        ids = set(rng.choice(names, rng.integers(0, len(names) // 2)).tolist()) | {"no such clip"}
        sources = {f"film '{i}'" for i in rng.integers(0, 8, rng.integers(0, 4))}
        allowed = np.array([n not in ids and f not in sources for n, f in zip(names, films, strict=True)])
        rows, cosines = index.search(query, k, only(allowed, ids, sources))
        wanted, theirs = brute_force(vectors, query, k, allowed)
        assert rows.tolist() == wanted
        np.testing.assert_allclose(cosines, theirs, rtol=0, atol=1e-12)
    assert not len(index.search(query, 3, only(np.zeros(len(names), bool), names))[0])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_finds_what_brute_force_finds_while_it_grows_and_after_it_was_opened_again(name, tmp_path):
    rng, count = np.random.default_rng(3), 300 if "indexed" in name else 90
    distinct = draw("uniform", count * 2 // 3, 16)
    vectors = np.concatenate([distinct, distinct[rng.integers(0, len(distinct), count // 3)]])  # with repeats, so ties
    names = [f"clip '{i}' of \"größe\"\\" for i in range(count)]
    films = [None if i == 7 else f"film '{i}'" for i in rng.integers(0, 8, count)]
    with made(name) as engine:
        index = engine.empty(tmp_path / "index", 16)
        assert not len(index) and not len(index.search(vectors[0], 5, only(np.ones(0, bool)))[0])
        for start, end in ((0, count // 2), (count // 2, count * 9 // 10), (count * 9 // 10, count)):
            index.add(vectors[start:end], names[start:end], films[start:end])
            check(vectors[:end], index, end, names[:end], films[:end])
            write(engine, tmp_path / "index", index)
            check(vectors[:end], index, end + 1, names[:end], films[:end])
            if name in SAVED:
                index = read(engine, tmp_path / "index")
            assert (len(index), index.dim) == (end, 16)
        check(vectors, index, 0, names, films)
        rows = np.array([count - 1, 3, count // 2, 3])
        np.testing.assert_array_equal(index.rows(rows), vectors[rows])
        assert not len(engine.empty(tmp_path / "index", 16))


@pytest.mark.parametrize("kind", ["clustered", "uniform"])
def test_codes_find_nearly_all_neighbours_and_never_what_is_excluded(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "_AT_ONCE", 5)  # so that it stops where the errors of the codes let it
    vectors, queries = draw(kind, 6000, 32), draw(kind, 15, 32, seed=5)
    engine = Approximate(recall=0.98, smallest=64)
    write_part = engine.empty(tmp_path, 32)
    write_part.add(vectors[:4000])
    write(engine, tmp_path, write_part)
    index = read(engine, tmp_path)
    index.add(vectors[4000:5500])
    write(engine, tmp_path, index)  # the old quantiser codes them
    index.add(vectors[5500:])  # these stay in memory
    every = np.ones(6000, bool)
    some = np.random.default_rng(2).random(6000) < 0.6
    for allowed in (every, some):
        shares = []
        for query in queries:
            rows, cosines = index.search(query, 5, only(allowed))
            assert len(set(rows.tolist())) == 5 and allowed[rows].all() and (np.diff(cosines) <= 0).all()
            shares.append(len(set(rows.tolist()) & set(brute_force(vectors, query, 5, allowed)[0])) / 5)
        assert np.mean(shares) >= 0.97
    read_rows = index.coded[0].rows
    index.coded[0].rows = lambda rows: counted.append(len(rows)) or read_rows(rows)
    counted: list[int] = []
    index.search(queries[0], 5, only(every))
    assert sum(counted) < 2000  # of 5500: the codes have chosen


def test_lancedb_with_a_disk_index_finds_neighbours_and_fills_up_what_a_filter_leaves(tmp_path):
    vectors, queries = draw("clustered", 4000, 32), draw("clustered", 10, 32, seed=5)
    engine = LanceDB(uri=str(tmp_path / "there"), index_from=1000, nprobes=2)
    index = engine.empty(tmp_path, 32)
    names = [str(i) for i in range(4000)]
    index.add(vectors, names, ["a"] * 3990 + ["b"] * 10)
    write(engine, tmp_path, index)
    assert index.table.index_stats("vector_idx").num_indexed_rows == 4000
    shares = []
    for query in queries:
        rows, _ = index.search(query, 5, only(np.ones(4000, bool)))
        shares.append(len(set(rows) & set(brute_force(vectors, query, 5, np.ones(4000, bool))[0])) / 5)
        few = np.arange(4000) >= 3990
        assert index.search(query, 30, only(few, sources=["a"]))[0].tolist() == brute_force(vectors, query, 30, few)[0]
    assert np.mean(shares) >= 0.9
    ask = index._ask  # as if the probed lists held too few that the filter lets through
    index._ask = lambda *args, exhaustive: ask(*args, exhaustive=exhaustive).slice(0, None if exhaustive else 3)
    assert index.search(query, 30, only(few, sources=["a"]))[0].tolist() == brute_force(vectors, query, 30, few)[0]


@pytest.mark.parametrize("name", SAVED)
def test_a_bank_keeps_an_index_with_any_engine(name, tmp_path, caplog):
    bank = bank_at(tmp_path / "bank", CAPTIONS)
    with made(name) as engine:
        first = Letters()
        built = index(bank, first, engine=engine)
        assert first.asked == ["abc", "bad", "cab bed", "head"]
        bank.add("new", torch.zeros(1, 1, 1, 1), "feed")
        bank.add("copy", torch.zeros(1, 1, 1, 1), "bad")
        built.refresh()
        again = Letters()
        opened = index(MemoryBank.open(bank.path), again, engine=engine)
        assert again.asked == ["abc"] and opened.table.ids == built.table.ids == [
            f"clip{i}" for i in (0, 1, 3, 4, 5)
        ] + [
            "new",
            "copy",
        ]
        rows = np.arange(7)
        np.testing.assert_array_equal(opened.vectors.rows(rows), built.vectors.rows(rows))
        assert not caplog.records
        index(bank, Letters(shift=0.5), engine=engine)
        assert "the model has changed" in caplog.text
        other = bank_at(tmp_path / "other", [*CAPTIONS[:5], "hedge"])
        if isinstance(engine, Qdrant):
            engine.close()
        (bank.path / "index").rename(other.path / "index")
        caplog.clear()
        refused = Letters(shift=0.5)
        index(other, refused, engine=engine)
        assert "clips have changed" in caplog.text and "hedge" in refused.asked


@pytest.mark.parametrize("name", ["approximate", "lancedb", "qdrant"])
def test_another_engine_takes_over_what_exact_search_has_saved(name, tmp_path, caplog):
    captions = [f"{'abcdefgh'[i % 8]}{'abcdefgh'[i // 8 % 8]}{'a' * (i // 64)}" for i in range(70)]
    bank = bank_at(tmp_path / "bank", captions)
    exact, embed = index(bank, Letters()), Letters()
    with made(name) as engine:
        other = index(bank, embed, engine=engine)
        assert set(embed.asked) == {captions[0]}
        rows = np.arange(70)
        np.testing.assert_array_equal(other.vectors.rows(rows), exact.vectors.rows(rows))
        again = Letters()
        index(bank, again, engine=engine)
        assert again.asked == [captions[0]] and not caplog.records
