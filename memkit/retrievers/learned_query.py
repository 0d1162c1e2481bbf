"""`LearnedQuery`: a retriever by the attention of a model's own query tokens (MemLearner, arXiv 2606.31734)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memkit.display import counted, described
from memkit.errors import InputError
from memkit.retrievers.hits import ClipTable, Query, Retriever, rank


class LearnedQuery(Retriever[Query]):
    """Frames, or clips of several frames, that the query layers of a model attend to most.

        with query_layers.attach(transformer) as attached:
            def attend(latents):  # the noisy frames to come, [1, C, F, H, W], as noisy as t
                return attend_with(attached, transformer, latents, t, text, context=frames)[0]

            hits = LearnedQuery(attend, ids)(latents, k=8)

    The paper lets the model attend to its whole context and retrieves nothing; to keep only what it attends to most is
    our reading of a learned query. `memkit.injectors.attend_with` gives the shares of one forward.

    Args:
        attend: returns the share of attention on each stored frame, [frames], for one query of any type but list or
            tuple, which are several queries. It is called once per query, with excluded frames visible: they take
            their share.
        ids: id of each frame's clip. The score of a clip is the sum over its frames, which need not be adjacent.
        sources: source of each frame, for ``exclude_sources``; the same for all frames of a clip.

    Equal scores keep the order of ``ids``. A call is that of `Retriever.__call__`.

    Raises `InputError` for ids and sources that do not fit each other, and in a call for shares that are not one finite
    number ≥ 0 for each frame.
    """

    def __init__(
        self,
        attend: Callable[[Query], Float[Tensor, " frames"]],
        ids: Sequence[str],
        sources: Sequence[str | None] | None = None,
    ) -> None:
        if isinstance(ids, str) or isinstance(sources, str):
            raise InputError("ids or sources are one string; give a list with one per frame.")
        if not all(isinstance(id, str) for id in ids):
            raise InputError(f"The ids {list(ids)[:8]} are not all strings; give each frame the id of its clip.")
        films = [None] * len(ids) if sources is None else list(sources)
        if len(films) != len(ids):
            raise InputError(f"{len(ids)} ids and {len(films)} sources; give one of each per frame.")
        film_of: dict[str, str | None] = {}
        for id, film in zip(ids, films, strict=True):
            if film_of.setdefault(id, film) != film:
                raise InputError(
                    f"Frames of {id!r} have the sources {film_of[id]!r} and {film!r}; give a clip one source."
                )
        self.attend = attend
        self._clips = ClipTable(list(film_of), list(film_of.values()))
        row = {id: i for i, id in enumerate(film_of)}
        self._rows = np.array([row[id] for id in ids], np.int64)

    def __repr__(self) -> str:
        return described(self, counted(len(self._rows), "frame"), f"of {counted(len(self._clips), 'clip')}")

    def _table(self) -> ClipTable:
        return self._clips

    def _best(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " clips"]
    ) -> tuple[Int[np.ndarray, " hits"], Float[np.ndarray, " hits"]]:
        scores = np.zeros(len(self._clips))
        np.add.at(scores, self._rows, self._shares(query))
        return rank(scores, k, allowed)

    def _shares(self, query: Query) -> Float[np.ndarray, " frames"]:
        found = self.attend(query)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != self._rows.shape:
            raise InputError(
                f"attend gave {shape} for {len(self._rows)} frames; give a tensor with one share per frame."
            )
        shares = found.detach().to("cpu", torch.float64)
        good = shares.isfinite() & (shares >= 0)
        if not bool(good.all()):
            bad = int((~good).nonzero()[0])
            raise InputError(f"attend gave frame {bad} the share {float(shares[bad])}; shares are finite and ≥ 0.")
        return shares.numpy()
