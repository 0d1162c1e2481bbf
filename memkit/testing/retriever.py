"""`check_retriever`: what a call of any retriever promises about its hits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from memkit.checks import check_list, shown
from memkit.errors import InputError
from memkit.retrievers.hits import Hits
from memkit.testing.report import Properties, Report


def check_retriever(
    retriever: Callable[..., Any],
    queries: Sequence[Any],
    *,
    sources: Mapping[str, str] | None = None,
    ranks: bool = True,
    examples: int = 20,
    seed: int = 0,
    shrink: bool = True,
) -> Report:
    """Check a retriever, such as a subclass of `memkit.retrievers.Retriever`, by its hits for some queries.

    A call ``retriever(query, k, exclude=..., exclude_sources=..., min_score=...)`` returns `Hits`: at most k different
    ids with finite scores, best first, the same in every call. A smaller k gives the first of the same hits. Excluded
    ids never come back and the next best replace them; hits below ``min_score`` are left out. A list of queries gives a
    list of `Hits`, each as for that query alone. A k below 1 is refused with a `ValueError`.

    Args:
        retriever: the retriever.
        queries: at least two queries; some of them must have two hits or more.
        sources: source of each id that has one. If given, ``exclude_sources`` must exclude exactly its ids.
        ranks: whether the retriever scores each clip independently of the others, so that hits without some clips are
            the same list with those removed. False for one that selects a set, such as
            ``FOVRetriever(select="cover")``: then excluded clips must be absent, and the rest may be any.
        examples: largest number of calls drawn for each property.
        seed: determines the calls.
        shrink: look for the smallest input that fails, which takes many more calls.

    Raises:
        CheckFailed: a property does not hold.
        InputError: there are fewer than two queries, or no query has two hits.
    """
    if not callable(retriever):
        raise InputError(f"The retriever is {shown(retriever)}; give one.")
    queries = check_list("queries", queries, "at least two queries")
    if len(queries) < 2:
        raise InputError(f"check_retriever got {len(queries)} queries; give at least two.")
    properties = Properties("check_retriever", type(retriever).__name__, seed, examples, shrink)
    _check_hits(properties, retriever, queries)
    whole = [retriever(query, _MANY) for query in queries]
    if max(len(hits.ids) for hits in whole) < 2:
        raise InputError("No query has two hits, so their order cannot be checked; give other queries, or more clips.")
    _check_calls(properties, retriever, queries, whole, ranks)
    _check_exclusions(properties, retriever, queries, whole, sources, ranks)
    if sources is None:
        properties.skip("exclude_sources (give sources=)")
    return properties.report


_MANY = 1_000_000
"""A number of hits that no bank of a test has: all of them."""


def _check_hits(properties: Properties, retriever: Callable[..., Any], queries: list[Any]) -> None:
    asked = {"i": st.integers(0, len(queries) - 1), "k": st.integers(1, 12) | st.just(_MANY)}

    def malformed(i: int, k: int) -> int:
        hits = retriever(queries[i], k)
        if not isinstance(hits, Hits) or len(hits.ids) != len(hits.scores):
            return 1
        good = all(isinstance(id, str) for id in hits.ids) and len(set(hits.ids)) == len(hits.ids)
        return int(not good) + sum(not isinstance(s, float) or not math.isfinite(s) for s in hits.scores)

    properties.none(
        "Hits of different ids with finite scores",
        malformed,
        "Return memkit.Hits(ids, scores): a list of strings, each once, and a float for each.",
        **asked,
    )
    properties.none(
        "at most k hits",
        lambda i, k: max(0, len(retriever(queries[i], k).ids) - k),
        "Cut the ranking to k.",
        **asked,
    )
    properties.none(
        "scores in descending order",
        lambda i, k: sum(b > a for a, b in _pairs(retriever(queries[i], k).scores)),
        "Sort by score, best first, and give higher scores to better hits: negate distances.",
        **asked,
    )


def _check_calls(
    properties: Properties, retriever: Callable[..., Any], queries: list[Any], whole: list[Hits], ranks: bool
) -> None:
    some = {"i": st.integers(0, len(queries) - 1), "k": st.integers(1, 12)}

    def accepted(k: int) -> int:
        try:
            retriever(queries[0], k)
        except ValueError:
            return 0
        return 1

    def ungrouped(order: list[int], k: int) -> int:
        found = retriever([queries[i] for i in order], k)
        alone = [retriever(queries[i], k) for i in order]
        return int(not isinstance(found, list)) + sum(a != b for a, b in zip(found, alone, strict=True))

    def below(i: int, at: float) -> int:
        scores = whole[i].scores
        least = scores[int(at * (len(scores) - 1))] if scores else 0.0
        kept = [(id, score) for id, score in zip(*whole[i], strict=True) if score >= least]
        return _different(retriever(queries[i], _MANY, min_score=least), kept)

    properties.none(
        "equal calls give equal hits",
        lambda i, k: int(retriever(queries[i], k) != retriever(queries[i], k)),
        "Draw random numbers from a seed and the query, not from the global state.",
        **some,
    )
    if ranks:
        properties.none(
            "a smaller k gives the first hits",
            lambda i, k: _different(retriever(queries[i], k), list(zip(*whole[i], strict=True))[:k]),
            "Rank all clips in the same way for every k, also those of equal score.",
            **some,
        )
    else:
        properties.none(
            "k hits, as long as there are so many",
            lambda i, k: abs(len(retriever(queries[i], k).ids) - min(k, len(whole[i].ids))),
            "Return k hits if there are as many.",
            **some,
        )
    properties.none("k below 1 is refused", accepted, "Raise memkit.InputError for k < 1.", k=st.sampled_from([0, -1]))
    properties.none(
        "a query has the same hits alone and in a list",
        ungrouped,
        "For a list of queries return a list with one Hits per query.",
        order=st.lists(st.integers(0, len(queries) - 1), max_size=4),
        k=st.integers(1, 12),
    )
    properties.none(
        "min_score leaves out the hits below it",
        below,
        "Drop hits whose score is below min_score; keep those that are equal to it.",
        i=some["i"],
        at=st.floats(0, 1),
    )


def _check_exclusions(
    properties: Properties,
    retriever: Callable[..., Any],
    queries: list[Any],
    whole: list[Hits],
    sources: Mapping[str, str] | None,
    ranks: bool,
) -> None:
    ids = sorted({id for hits in whole for id in hits.ids})
    films = sorted(set((sources or {}).values()))

    def returned(i: int, k: int, without: set[str], films: set[str]) -> int:
        given = {"exclude_sources": sorted(films)} if films else {}
        hits = retriever(queries[i], k, exclude=sorted(without), **given)
        gone = without | {id for id, film in (sources or {}).items() if film in films}
        if not ranks:
            return len(gone & set(hits.ids))
        left = [(id, score) for id, score in zip(*whole[i], strict=True) if id not in gone]
        return _different(hits, left[:k])

    remedy = "Leave excluded clips out before the ranking is cut to k, so that the next best replace them."
    drawn: dict[str, st.SearchStrategy] = {"i": st.integers(0, len(queries) - 1)}
    drawn["k"] = st.integers(1, 12) | st.just(_MANY)
    drawn["without"] = st.sets(st.sampled_from([*ids, "an unknown id"]))
    properties.none("excluded clips never come back", returned, remedy, **drawn, films=st.just(set()))
    if films:
        drawn["films"] = st.sets(st.sampled_from(films), min_size=1)
        properties.none("clips of excluded sources never come back", returned, remedy, **drawn)


def _pairs(scores: list[float]) -> list[tuple[float, float]]:
    return list(zip(scores, scores[1:], strict=False))


def _different(hits: Hits, wanted: list[tuple[str, float]]) -> int:
    """In how many places the hits are not those wanted."""
    found = list(zip(*hits, strict=True))
    return abs(len(found) - len(wanted)) + sum(a != b for a, b in zip(found, wanted, strict=False))
