"""The exact search, the exclusions, and the index file."""

import logging
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.banks import MemoryBank
from memkit.errors import BankError, InputError
from memkit.retrievers import Hits, Retriever
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.index import BankIndex
from memkit.retrievers.vectors import VectorIndex, import_faiss, read_flat_ip


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def index_of(vectors):
    index = VectorIndex.empty(vectors.shape[1])
    index.add(vectors)
    return index


class Vectors(Retriever[int]):
    """The shared call over given vectors; a query is the row of a query vector."""

    def __init__(self, vectors, queries, sources):
        self.index, self.queries = index_of(vectors), queries
        self.clips = ClipTable([f"clip{i}" for i in range(len(vectors))], sources)

    def _table(self):
        return self.clips

    def _best(self, query, k, allowed):
        return self.index.search(self.queries[query], k, allowed)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    distinct=st.integers(1, 60),
    dim=st.sampled_from([1, 2, 3, 8, 33]),
    k=st.integers(1, 70),
    excluded=st.sets(st.integers(0, 59)),
    excluded_sources=st.sets(st.integers(0, 5)),
    min_score=st.none() | st.floats(-1, 1),
)
def test_search_equals_brute_force_with_the_same_exclusions(
    seed, count, distinct, dim, k, excluded, excluded_sources, min_score
):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(distinct, dim)))[rng.integers(0, distinct, count)]  # with repeats, so with ties
    queries = unit(rng.normal(size=(3, dim)))
    sources = [None if s == 5 else f"film{s}" for s in rng.integers(0, 6, count)]
    if not any(sources):
        excluded_sources = set()
    retriever = Vectors(vectors, queries, sources)
    found = retriever(
        [0, 1, 2],
        k,
        exclude={f"clip{i}" for i in excluded},
        exclude_sources=[f"film{s}" for s in excluded_sources],
        min_score=min_score,
    )
    for query, hits in zip(queries, found, strict=True):
        cosine = (vectors.astype(float) * query.astype(float)).sum(-1)
        rows = [
            i for i in range(count) if i not in excluded and sources[i] not in {f"film{s}" for s in excluded_sources}
        ]
        rows = sorted(rows, key=lambda i: (-cosine[i], i))[:k]
        if min_score is not None:
            rows = [i for i in rows if cosine[i] >= min_score]
        assert hits.ids == [f"clip{i}" for i in rows]
        np.testing.assert_allclose(hits.scores, cosine[rows], rtol=0, atol=1e-12)


def test_ranking_is_exact_where_float32_products_cannot_tell_apart():
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=384))
    vectors = unit(base + 1e-6 * rng.normal(size=(500, 384)))
    cosine = (vectors.astype(float) * base.astype(float)).sum(-1)
    rows, scores = index_of(vectors).search(base, 5, np.ones(500, bool))
    assert rows.tolist() == np.lexsort((np.arange(500), -cosine))[:5].tolist()
    assert (np.diff(scores) <= 0).all()


def test_many_equal_vectors_come_in_row_order():
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 16))), 1000, axis=0)
    allowed = np.ones(1000, bool)
    allowed[:3] = False
    rows, scores = index_of(vectors).search(vectors[0], 4, allowed)
    assert rows.tolist() == [3, 4, 5, 6] and len(set(scores)) == 1


def test_exclusions_for_each_query_of_a_list():
    vectors = unit(np.random.default_rng(0).normal(size=(6, 4)))
    retriever = Vectors(vectors, vectors, ["a", "a", "b", "b", None, "c"])
    own = retriever([0, 2], 6, exclude_sources=[["a"], {"b"}], exclude=[(), ("clip5",)])
    assert set(own[0].ids) == {"clip2", "clip3", "clip4", "clip5"}
    assert set(own[1].ids) == {"clip0", "clip1", "clip4"}
    assert own[0] == retriever(0, 6, exclude_sources=["a"])
    assert retriever([], 3) == []
    assert retriever([0, 1], 2, exclude=["clip0"]) == [retriever(i, 2, exclude=["clip0"]) for i in (0, 1)]


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"k": 0}, "at least 1"),
        ({"k": -3}, "at least 1"),
        ({"min_score": float("nan")}, "NaN"),
        ({"exclude": "clip1"}, r"\['clip1'\]"),
        ({"exclude_sources": "film"}, r"\['film'\]"),
        ({"exclude": [["clip1"]]}, "one flat collection"),
        ({"query": [0, 1], "exclude": [["clip1"]]}, "2 queries"),
        ({"query": [0, 1], "exclude": ["clip1", ["clip2"]]}, "mixes"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, says):
    vectors = unit(np.random.default_rng(0).normal(size=(3, 4)))
    retriever = Vectors(vectors, vectors, ["a", "b", None])
    with pytest.raises(InputError, match=says):
        retriever(**{"query": 0, **arguments})


def test_excluding_sources_that_were_never_recorded_is_an_error_and_not_a_leak():
    vectors = unit(np.random.default_rng(0).normal(size=(3, 4)))
    with pytest.raises(InputError, match="records its source"):
        Vectors(vectors, vectors, [None, None, None])(0, exclude_sources=["a"])
    assert Vectors(vectors[:0], vectors, [])(0, exclude_sources=["a"]) == Hits([], [])


# The index that a bank keeps


class Letters:
    """Embeds a text by its letter counts and remembers what it was asked for."""

    def __init__(self, shift=0.0):
        self.asked, self.shift = [], shift
        self.fail_after: int | None = None

    def __call__(self, texts):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += texts
        counts = [[text.count(letter) + self.shift * (letter == "a") for letter in "abcdefgh"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts, dtype=torch.float32), dim=-1)


def bank_at(path, captions):
    with MemoryBank.create(path) as bank:
        for i, caption in enumerate(captions):
            bank.add(f"clip{i}", torch.zeros(1, 1, 1, 1), caption)
    return bank


def index(bank, embed, **changes):
    arguments: dict = {
        "name": "letters",
        "settings": {"v": 1},
        "dim": 8,
        "contents": lambda bank: [caption or None for caption in bank.captions],
        "embed": embed,
        "chunk": 2,
    }
    return BankIndex(bank, **arguments | changes)


CAPTIONS = ["abc", "bad", "", "cab bed", "bad", "head"]


@pytest.fixture
def bank(tmp_path):
    return bank_at(tmp_path / "bank", CAPTIONS)


def same(one, other):
    assert one.table.ids == other.table.ids
    rows = np.arange(len(one.vectors))
    np.testing.assert_array_equal(one.vectors.rows(rows), other.vectors.rows(np.arange(len(other.vectors))))


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


def damage_vectors(folder):
    data = bytearray((folder / "vectors.faiss").read_bytes())
    data[-4] ^= 1  # the last bit of a fraction, so that only the checksum tells
    (folder / "vectors.faiss").write_bytes(data)


DAMAGE = {
    "a flipped bit": damage_vectors,
    "a cut file": lambda f: (f / "vectors.faiss").write_bytes((f / "vectors.faiss").read_bytes()[:-4]),
    "an empty file": lambda f: (f / "vectors.faiss").write_bytes(b""),
    "no vectors": lambda f: (f / "vectors.faiss").unlink(),
    "cut JSON": lambda f: (f / "index.json").write_text((f / "index.json").read_text()[:-9]),
    "another JSON": lambda f: (f / "index.json").write_text("[1, 2]"),
    "no ids": lambda f: (f / "index.json").write_text('{"format": "memkit-index-1"}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_rebuilt_and_said(bank, caplog, damage):
    built = index(bank, Letters())
    DAMAGE[damage](built.folder)
    embed = Letters()
    same(index(bank, embed), built)
    assert "head" in embed.asked
    assert [r.levelno for r in caplog.records] == [logging.WARNING] and "is rebuilt" in caplog.text
    caplog.clear()
    same(index(bank, Letters()), built)
    assert not caplog.records


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


def test_an_index_file_is_read_only_when_it_is_whole_flat_and_of_unit_vectors(tmp_path):
    faiss = import_faiss()
    path = tmp_path / "labels.index"

    def refused(write, says):
        write()
        with pytest.raises(InputError, match=says):
            read_flat_ip(path)

    vectors = unit(np.random.default_rng(0).normal(size=(5, 8)))

    def save(index, vectors):
        index.add(vectors)
        faiss.write_index(index, str(path))

    refused(lambda: save(faiss.IndexFlatL2(8), vectors), "not a FAISS IndexFlatIP")
    refused(lambda: save(faiss.IndexHNSWFlat(8, 4), vectors), "not a FAISS IndexFlatIP")
    refused(lambda: save(faiss.IndexFlatIP(8), 3 * vectors), "unit length")
    refused(lambda: save(faiss.IndexFlatIP(8), np.full((2, 8), np.nan, np.float32)), "unit length")
    save(faiss.IndexFlatIP(8), vectors)
    good = path.read_bytes()
    np.testing.assert_array_equal(read_flat_ip(path).rows(np.arange(5)), vectors)
    refused(lambda: path.write_bytes(good[:-1]), "size does not fit")
    refused(lambda: path.write_bytes(good + b"x"), "size does not fit")
    refused(lambda: path.write_bytes(good[:20]), "too short")
    refused(lambda: path.write_bytes(good[:8] + struct.pack("<q", 2**40) + good[16:]), "size does not fit")
    refused(path.unlink, "cannot be read")
