"""Retrievers with one fault each: the suite names the property that fails."""

import random

import numpy as np
import pytest

from memkit.errors import InputError
from memkit.retrievers import ClipTable, Hits, Retriever
from memkit.testing import CheckFailed, check_retriever

IDS = [f"clip{i}" for i in range(9)]
SOURCES = [f"film{i % 3}" for i in range(9)]
QUERIES = ["a", "ab", "abc"]


class Lengths(Retriever[str]):
    """A retriever that has every property: a clip's score is how near its number is to the length of the query."""

    def _table(self):
        return ClipTable(IDS, SOURCES)

    def _best(self, query, k, allowed):
        scores = -np.abs(np.arange(9) - len(query)) - 0.01 * np.arange(9)
        rows = np.flatnonzero(allowed)
        rows = rows[np.argsort(-scores[rows], kind="stable")[:k]]
        return rows, scores[rows]


class Unsorted(Lengths):
    def _best(self, query, k, allowed):
        rows, scores = super()._best(query, k, allowed)
        return rows[::-1], scores[::-1]


class IgnoresK(Lengths):
    def _best(self, query, k, allowed):
        return super()._best(query, 9, allowed)


class CutsFirst(Lengths):
    """Excludes after it has cut to k, so that hits are missing."""

    def _best(self, query, k, allowed):
        rows, scores = super()._best(query, k, np.ones(9, dtype=bool))
        return rows[allowed[rows]], scores[allowed[rows]]


class IgnoresExclusions(Lengths):
    def _best(self, query, k, allowed):
        return super()._best(query, k, np.ones(9, dtype=bool))


class Twice(Lengths):
    def _best(self, query, k, allowed):
        rows, scores = super()._best(query, k, allowed)
        return np.repeat(rows, 2)[:k], np.repeat(scores, 2)[:k]


class NotANumber(Lengths):
    def _best(self, query, k, allowed):
        rows, scores = super()._best(query, k, allowed)
        return rows, scores * np.nan


class Chance(Lengths):
    def _best(self, query, k, allowed):
        rows, scores = super()._best(query, k, allowed)
        return rows, scores - random.random()


class DependsOnK(Lengths):
    def _best(self, query, k, allowed):
        rows, scores = super()._best(query, k, allowed)
        return rows, scores - 1 / k


class Changed:
    """Calls a sound retriever with changed arguments, or changes what it returns."""

    def __init__(self, change):
        self.change = change

    def __call__(self, query, k=5, **given):
        return self.change(Lengths(), query, k, given)


def without(name):
    def change(retriever, query, k, given):
        return retriever(query, k, **{key: value for key, value in given.items() if key != name})

    return Changed(change)


def only_the_first(retriever, query, k, given):
    hits = retriever(query, k, **given)
    return [hits[0]] * len(hits) if isinstance(query, list) and hits else hits


def at_least_one(retriever, query, k, given):
    return retriever(query, max(k, 1), **given)


def tuples(retriever, query, k, given):
    return tuple(retriever(query, k, **given))


BROKEN = {
    "unsorted": (Unsorted(), "scores in descending order"),
    "ignores k": (IgnoresK(), "at most k hits"),
    "cuts first": (CutsFirst(), "excluded clips never come back"),
    "ignores exclusions": (IgnoresExclusions(), "excluded clips never come back"),
    "twice": (Twice(), "Hits of different ids with finite scores"),
    "NaN": (NotANumber(), "Hits of different ids with finite scores"),
    "chance": (Chance(), "equal calls give equal hits|scores in descending order"),
    "depends on k": (DependsOnK(), "a smaller k gives the first hits"),
    "no threshold": (without("min_score"), "min_score leaves out the hits below it"),
    "ignores sources": (without("exclude_sources"), "clips of excluded sources never come back"),
    "one for all": (Changed(only_the_first), "a query has the same hits alone and in a list"),
    "takes k = 0": (Changed(at_least_one), "k below 1 is refused"),
    "no Hits": (Changed(tuples), "Hits of different ids with finite scores"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_retriever_is_named_by_its_property(name):
    retriever, says = BROKEN[name]
    with pytest.raises(CheckFailed, match=says):
        check_retriever(retriever, QUERIES, sources=dict(zip(IDS, SOURCES, strict=True)), shrink=False)


def test_a_sound_one_has_them_all():
    sound = Lengths()
    report = check_retriever(sound, QUERIES, sources=dict(zip(IDS, SOURCES, strict=True)))
    assert len(report.properties) == 10 and not report.not_checked
    assert report == check_retriever(sound, QUERIES, sources=dict(zip(IDS, SOURCES, strict=True)))
    assert check_retriever(sound, QUERIES).not_checked == ("exclude_sources (give sources=)",)


def test_too_few_queries_or_hits_are_refused():
    with pytest.raises(InputError, match="at least two"):
        check_retriever(Lengths(), ["a"])
    with pytest.raises(InputError, match="No query has two hits"):
        check_retriever(Changed(lambda *_: Hits([], [])), QUERIES)
