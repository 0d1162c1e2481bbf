"""The exact search, the exclusions, and the FAISS file of a release."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.errors import InputError
from memkit.retrievers import Hits, Retriever
from memkit.retrievers.hits import ClipTable, Excluded
from memkit.retrievers.vectors import FlatVectors, import_faiss, read_flat_ip


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def index_of(vectors):
    index = FlatVectors.empty(vectors.shape[1])
    index.add(vectors)
    return index


def only(allowed):
    return Excluded(frozenset(), frozenset(), allowed)


class Vectors(Retriever[int]):
    """The shared call over given vectors; a query is the row of a query vector."""

    def __init__(self, vectors, queries, sources):
        self.index, self.queries = index_of(vectors), queries
        self.clips = ClipTable([f"clip{i}" for i in range(len(vectors))], sources)

    def _table(self):
        return self.clips

    def _best(self, query, k, allowed):
        return self.index.search(self.queries[query], k, only(allowed))


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
    rows, scores = index_of(vectors).search(base, 5, only(np.ones(500, bool)))
    assert rows.tolist() == np.lexsort((np.arange(500), -cosine))[:5].tolist()
    assert (np.diff(scores) <= 0).all()


def test_many_equal_vectors_come_in_row_order():
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 16))), 1000, axis=0)
    allowed = np.ones(1000, bool)
    allowed[:3] = False
    rows, scores = index_of(vectors).search(vectors[0], 4, only(allowed))
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
