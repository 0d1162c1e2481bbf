"""The controls: random, newest, oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.retrievers import Hits, NewestRetriever, OracleRetriever, RandomRetriever
from memkit.testing import check_retriever

COUNT = 40
words = st.text(min_size=1, alphabet="abc ").filter(str.strip)


def fill(path, count):
    with MemoryBank.create(path) as bank:
        for i in range(count):
            bank.add(f"clip{i}", torch.zeros(1, 1, 1, 1), f"caption {i}", f"film{i % 7}")
    return bank


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("controls") / "bank", COUNT)


@settings(max_examples=3)
@given(seed=st.integers(0, 2**40), queries=st.lists(words, min_size=2, max_size=4))
def test_they_have_the_properties_of_a_retriever(bank, seed, queries):
    sources = dict(zip(bank.ids, bank.sources, strict=True))
    oracle = OracleRetriever(bank, {query: bank.ids[i::3] for i, query in enumerate(queries)})
    for retriever in (RandomRetriever(bank, seed), NewestRetriever(bank), oracle):
        check_retriever(retriever, queries, sources=sources)
    for retriever in (RandomRetriever(bank, seed), NewestRetriever(bank)):
        assert sorted(retriever(queries[0], COUNT).ids) == sorted(bank.ids)


def test_random_depends_on_query_and_seed_alone(bank):
    first = RandomRetriever(bank, 1)("a ball", COUNT)
    assert RandomRetriever(bank, 1)(["ice", "a ball"], COUNT)[1] == first
    assert RandomRetriever(bank, 2)("a ball", COUNT).ids != first.ids != RandomRetriever(bank, 1)("ice", COUNT).ids


def test_random_favours_no_clip(bank):
    drawn = RandomRetriever(bank)([f"query {i}" for i in range(2000)], 5)
    counts = np.unique([id for hits in drawn for id in hits.ids], return_counts=True)[1]
    expected = 2000 * 5 / COUNT
    assert len(counts) == COUNT and abs(counts - expected).max() < 5 * expected**0.5


def test_a_grown_bank_keeps_its_random_scores_and_its_newest_clip_comes_first(tmp_path):
    bank = fill(tmp_path / "bank", 5)
    random, newest = RandomRetriever(bank, 3), NewestRetriever(bank)
    before = dict(zip(*random("ice", 9), strict=True))
    assert newest("ice", 2) == Hits(["clip4", "clip3"], [0.0, -1.0])
    bank.add("late", torch.zeros(1, 1, 1, 1), "late")
    after = dict(zip(*random("ice", 9), strict=True))
    assert after.keys() - before.keys() == {"late"} and before.items() <= after.items()
    assert newest("ice", 2).ids == ["late", "clip4"]


def test_the_oracle_gives_its_targets_in_order(bank):
    oracle = OracleRetriever(bank, {"ice": ["clip7", "clip3", "clip7", "clip1"], "fire": []})
    assert oracle("ice", 2) == Hits(["clip7", "clip3"], [1.0, 1.0])
    assert oracle(["fire", "ice"], 9, exclude_sources=["film3"])[1].ids == ["clip7", "clip1"]
    assert oracle("fire") == Hits([], [])
    with pytest.raises(InputError, match="'water', has no targets"):
        oracle("water")
    with pytest.raises(InputError, match="targets of 'ice'"):
        OracleRetriever(bank, {"ice": ["clip99"]})


def test_an_empty_bank_has_no_hits(tmp_path):
    bank = MemoryBank.create(tmp_path / "bank")
    for retriever in (RandomRetriever(bank), NewestRetriever(bank)):
        assert retriever("ice") == Hits([], [])
        with pytest.raises(InputError, match="blank"):
            retriever(" ")
