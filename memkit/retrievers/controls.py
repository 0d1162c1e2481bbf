"""Control retrievers: they tell whether the right memory helps, or any memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from memkit.checks import MOST, check_whole
from memkit.display import counted, described
from memkit.errors import InputError
from memkit.retrievers.hits import ClipTable, Retriever, check_text, rank
from memkit.retrievers.index import ClipBank


class _Control(Retriever[str]):
    def __init__(self, bank: ClipBank) -> None:
        self._bank = bank
        self._clips = ClipTable(bank.ids, bank.sources)

    def __repr__(self) -> str:
        return described(self, counted(len(self._bank.ids), "clip"))

    def _check(self, query: str, name: str) -> None:
        check_text(query, name)

    def _table(self) -> ClipTable:
        if len(self._clips) != len(self._bank):
            self._clips = ClipTable(self._bank.ids, self._bank.sources)
        return self._clips


class RandomRetriever(_Control):
    """Random clips: ``seed`` and the query determine a score per clip, uniform in [0, 1), whatever its content.

    Adding or excluding a clip does not change the scores of the others.
    """

    def __init__(self, bank: ClipBank, seed: int = 0) -> None:
        super().__init__(bank)
        check_whole("seed", seed, -MOST)
        self.seed = seed

    def _best(
        self, query: str, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        digest = hashlib.sha256(f"{self.seed} {query}".encode()).digest()
        scores = np.random.default_rng(list(digest)).random(len(allowed))
        return rank(scores, k, allowed)


class NewestRetriever(_Control):
    """The clips added last, newest first, whatever the query. A score is minus the number of newer clips."""

    def _best(
        self, query: str, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        rows = np.flatnonzero(allowed)[::-1][:k]
        return rows, (rows - len(allowed) + 1).astype(np.float64)


class OracleRetriever(_Control):
    """The clips known to be right for each query, in the given order, with score 1.

    Excluded targets are not replaced by other clips. Raises `InputError` from the constructor for a target that the
    bank does not hold, and from a call for a query without targets.
    """

    def __init__(self, bank: ClipBank, targets: Mapping[str, Sequence[str]]) -> None:
        super().__init__(bank)
        row = {id: i for i, id in enumerate(self._clips.ids)}
        for query, ids in targets.items():
            unknown = [id for id in ids if id not in row]
            if isinstance(ids, str) or unknown:
                raise InputError(f"The targets of {query!r} are {ids!r}; give a list of ids that the bank holds.")
        self._rows = {query: [row[id] for id in dict.fromkeys(ids)] for query, ids in targets.items()}

    def _check(self, query: str, name: str) -> None:
        super()._check(query, name)
        if query not in self._rows:
            raise InputError(f"{name}, {query!r}, has no targets; add them to the oracle's targets.")

    def _best(
        self, query: str, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        rows = np.array([row for row in self._rows[query] if allowed[row]][:k], np.int64)
        return rows, np.ones(len(rows))
