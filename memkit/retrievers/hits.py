"""`Hits`, and the call that all retrievers share: query, k, exclusions, threshold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Float, Int

from memkit.checks import is_number, shown
from memkit.display import MOST_ROWS, counted, html_table
from memkit.errors import InputError

Query = TypeVar("Query")
Exclusions = Collection[str] | Sequence[Collection[str]]
"""One collection for all queries, or a list with one collection per query."""


class Hits(NamedTuple):
    """Clips for one query, best first; ``scores[i]`` belongs to ``ids[i]``, and higher is better."""

    ids: list[str]
    scores: list[float]

    def __repr__(self) -> str:
        shown = [f"{id} {score:.3g}" for id, score in zip(self.ids[:3], self.scores[:3], strict=True)]
        return f"Hits({', '.join([*shown, *(['…'] if len(self.ids) > 3 else [])])})"

    def _repr_html_(self) -> str:
        rows = [(i, id, f"{score:.4f}") for i, (id, score) in enumerate(zip(self.ids, self.scores, strict=True), 1)]
        caption, heading = counted(len(rows), "hit"), ["", "id", "score"]
        return html_table(caption, heading, rows[:MOST_ROWS], more=max(0, len(rows) - MOST_ROWS))


class Excluded(NamedTuple):
    """What a query must not return: the names, for engines that filter by them, and the rows that are left."""

    ids: frozenset[str]
    sources: frozenset[str]
    allowed: Bool[np.ndarray, " clips"]
    """True for the rows of the table that may be returned."""


class ClipTable:
    """Ids and sources of clips, in bank order; applies exclusions."""

    def __init__(self, ids: Sequence[str], sources: Sequence[str | None]) -> None:
        self.ids = list(ids)
        self._row = {id: row for row, id in enumerate(self.ids)}
        self._rows_of_source: dict[str, list[int]] = {}
        for row, source in enumerate(sources):
            if source is not None:
                self._rows_of_source.setdefault(source, []).append(row)

    def __len__(self) -> int:
        return len(self.ids)

    def allowed(self, exclude: Collection[str], exclude_sources: Collection[str]) -> Bool[np.ndarray, " clips"]:
        """True for the clips that a query may return. Unknown ids and sources have no effect.

        Raises `InputError` where sources are excluded but no clip has one, which would silently exclude nothing.
        """
        if exclude_sources and self.ids and not self._rows_of_source:
            raise InputError(
                "exclude_sources is given but no clip here records its source, so nothing would be excluded; "
                "give clips a source when they are added, or exclude by id."
            )
        allowed = np.ones(len(self.ids), dtype=bool)
        for id in exclude:
            if id in self._row:
                allowed[self._row[id]] = False
        for source in exclude_sources:
            allowed[self._rows_of_source.get(source, [])] = False
        return allowed


class Retriever(ABC, Generic[Query]):
    """Finds clips for queries. A subclass says which clips there are (`_table`) and ranks those allowed (`_best`)."""

    @overload
    def __call__(
        self,
        query: Query,
        k: int = 5,
        *,
        exclude: Exclusions = (),
        exclude_sources: Exclusions = (),
        min_score: float | None = None,
    ) -> Hits: ...

    @overload
    def __call__(
        self,
        query: Sequence[Query],
        k: int = 5,
        *,
        exclude: Exclusions = (),
        exclude_sources: Exclusions = (),
        min_score: float | None = None,
    ) -> list[Hits]: ...

    def __call__(self, query, k=5, *, exclude=(), exclude_sources=(), min_score=None):
        """The ``k`` best clips for a query, or one `Hits` per query of a list.

        Clips whose id is in ``exclude`` or whose source is in ``exclude_sources`` are never returned; the next best
        replace them, so fewer than ``k`` hits mean that no other clip remains. Each of the two is one collection for
        all queries, or a list with one collection per query. Hits below ``min_score`` are left out. A query's hits do
        not depend on the other queries of its list.

        Raises `InputError` for k < 1, an unusable query, or exclusions that do not fit the queries.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise InputError(f"k is {shown(k)}; ask for at least 1 clip.")
        if min_score is not None and (not is_number(min_score) or min_score != min_score):
            raise InputError(f"min_score is {shown(min_score)}; give a number but NaN, or None for no threshold.")
        many = isinstance(query, list | tuple)
        queries = list(query) if many else [query]
        count = len(queries) if many else None
        without = _one_set_per_query("exclude", exclude, count)
        without_sources = _one_set_per_query("exclude_sources", exclude_sources, count)
        for i, item in enumerate(queries):
            self._check(item, f"query {i}" if many else "the query")
        table = self._table()
        found = []
        for item, ids, sources in zip(queries, without, without_sources, strict=True):
            rows, scores = self._search(item, k, Excluded(ids, sources, table.allowed(ids, sources)))
            keep = [i for i, score in enumerate(scores.tolist()) if min_score is None or score >= min_score]
            found.append(Hits([table.ids[rows[i]] for i in keep], [float(scores[i]) for i in keep]))
        return found if many else found[0]

    def _check(self, query: Query, name: str) -> None:
        """Raises `InputError`, with the query's name, for a query that cannot be used."""

    @abstractmethod
    def _table(self) -> ClipTable:
        """The clips there are now."""

    def _search(
        self, query: Query, k: int, excluded: Excluded
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """What `_best` returns; a retriever that filters by names instead of rows overrides it."""
        return self._best(query, k, excluded.allowed)

    @abstractmethod
    def _best(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        """Rows of the table and scores of at most ``k`` allowed clips, best first."""


def rank(
    scores: Float[np.ndarray, " clips"], k: int, allowed: Bool[np.ndarray, " clips"]
) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
    """What `Retriever._best` returns for a score per clip: the ``k`` highest that are allowed, equal ones in order."""
    rows = np.flatnonzero(allowed)
    rows = rows[np.argsort(-scores[rows], kind="stable")[:k]]
    return rows, scores[rows]


def check_text(text: object, name: str) -> None:
    """Raises `InputError` unless ``text`` is a non-blank string of valid Unicode."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {type(text).__name__}, not text; give a string.")
    if not text.strip():
        raise InputError(f"{name} is blank; give the words to look for.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} is not valid Unicode ({error.reason}); decode it as UTF-8 first.") from None


def _one_set_per_query(name: str, given: Exclusions, count: int | None) -> list[frozenset[str]]:
    """``count`` is None for a single query, which takes a flat collection only."""
    if isinstance(given, str):
        raise InputError(f"{name} is the string {given!r}; give a collection, such as [{given!r}].")
    if not isinstance(given, Collection):
        raise InputError(f"{name} is {shown(given)}; give a collection of strings.")
    items: list[Any] = list(given)
    if all(isinstance(item, str) for item in items):
        return [frozenset(items)] * (1 if count is None else count)
    if any(isinstance(item, str) or not isinstance(item, Collection) for item in items):
        raise InputError(f"{name} mixes strings and other things; give strings only, or one collection per query.")
    if len(items) != count:
        wanted = "a single query takes one flat collection" if count is None else f"there are {count} queries"
        raise InputError(f"{name} holds {len(items)} collections, but {wanted}.")
    if not all(isinstance(entry, str) for item in items for entry in item):
        raise InputError(f"{name} holds something that is not a string; leave clips without a source out.")
    return [frozenset(item) for item in items]
