"""The vector index that a bank keeps of its clips."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from memkit.errors import BankError, InputError
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.saved_index import SavedIndex, read_saved, write_saved
from memkit.retrievers.vectors import VectorIndex, are_unit

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 60.0  # so that an interrupted build can be resumed
SAME_VECTOR = (
    1e-4  # cosine distance: far above the differences between devices, far below those between models or pooling
)


@runtime_checkable
class ClipBank(Protocol):
    """What a retriever needs of a bank, such as `memkit.MemoryBank`. Lists are aligned, ids unique."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[str]: ...
    @property
    def sources(self) -> Sequence[str | None]: ...
    @property
    def path(self) -> Path: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def clip(self, id: str) -> Any: ...


class BankIndex:
    """The vectors of a bank's clips, in step with the bank and saved in ``<bank>/index/<name>/`` as one file.

    ``contents(bank)`` returns what to embed of each clip, None for a clip to leave out; ``embed`` maps distinct
    contents to unit vectors ``[n, dim]``, ``chunk`` at a time. Equal contents share one vector, so that they tie
    exactly. The index on disk is used if settings and contents agree and the first clip, embedded again, gives the
    stored vector; only clips added since are embedded. A stale or damaged index is rebuilt, and if the folder cannot be
    written, the index stays in memory; both are logged as warnings.

    ``tied_to_bank`` is for vectors of data that ``contents`` does not show, such as pixels: an index of a bank with as
    many clips but another fingerprint is then stale too.
    """

    def __init__(
        self,
        bank: ClipBank,
        name: str,
        settings: dict[str, Any],
        dim: int,
        contents: Callable[[ClipBank], list[str | None]],
        embed: Callable[[list[str]], Float32[Tensor, "texts dim"]],
        chunk: int,
        tied_to_bank: bool = False,
    ) -> None:
        self.bank = bank
        self.folder = Path(bank.path) / "index" / re.sub(r"[^\w.-]+", "-", name)
        self.settings = settings | {"dim": dim}
        self.table = ClipTable([], [])
        self.vectors = VectorIndex.empty(dim)
        self._contents, self._embed, self._chunk, self._tied = contents, embed, chunk, tied_to_bank
        self._seen: int | None = None  # clips of the bank at the last refresh
        self._writable = True
        self.refresh()

    def refresh(self) -> None:
        """Add clips that were added to the bank since the last call."""
        if len(self.bank) == self._seen:
            return
        seen, bank_ids, bank_sources = len(self.bank), self.bank.ids, self.bank.sources
        kept = [(i, c) for i, c in enumerate(self._contents(self.bank)) if c is not None]
        ids = [bank_ids[i] for i, _ in kept]
        contents = [c for _, c in kept]
        if self._seen is None:
            self.vectors = self._load(ids, contents) or self.vectors
        elif self.table.ids != ids[: len(self.table)]:  # a bank removes a clip that it could not write
            self.vectors = VectorIndex.empty(self.vectors.dim)
        self._extend(ids, contents)
        self.table = ClipTable(ids, [bank_sources[i] for i, _ in kept])
        self._seen = seen

    def _extend(self, ids: list[str], contents: list[str]) -> None:
        """Embed the missing rows and save: at the end, and every minute meanwhile."""
        if len(self.vectors) == len(ids):
            return
        row_of: dict[str, int] = {}
        for row, content in enumerate(contents[: len(self.vectors)]):
            row_of.setdefault(content, row)
        saved = time.monotonic()
        for start in range(len(self.vectors), len(ids), self._chunk):
            part = contents[start : start + self._chunk]
            fresh = [content for content in dict.fromkeys(part) if content not in row_of]
            new = dict(zip(fresh, self._embed(fresh).numpy() if fresh else (), strict=True))
            block = np.stack([new[c] if c in new else self.vectors.rows(np.array([row_of[c]]))[0] for c in part])
            for id, good in zip(ids[start:], are_unit(block).tolist(), strict=False):
                if not good:
                    raise BankError(
                        f"The model gives no usable vector (NaN or 0) for clip {id!r}; check the clip and the model."
                    )
            self.vectors.add(block)
            for row, content in enumerate(part, start):
                row_of.setdefault(content, row)
            if len(self.vectors) == len(ids) or time.monotonic() - saved > SAVE_EVERY_SECONDS:
                self._save(ids, contents)
                saved = time.monotonic()

    def _load(self, ids: list[str], contents: list[str]) -> VectorIndex | None:
        """The saved vectors of the first rows; None, with a warning that says why, if they cannot be used."""
        try:
            found = read_saved(self.folder)
        except InputError as error:
            complaint, found = str(error), None
        else:
            complaint = self._complaint(found, ids, contents) if found else None
        if complaint:
            log.warning("The index %s is rebuilt: %s.", self.folder, complaint.removesuffix("."))
            return None
        return found.vectors if found else None

    def _complaint(self, saved: SavedIndex, ids: list[str], contents: list[str]) -> str | None:
        """Why saved vectors cannot be used."""
        count = len(saved.vectors)
        if saved.settings != self.settings or saved.vectors.dim != self.vectors.dim:
            return f"it was made with {saved.settings}, not with {self.settings}"
        if count > len(ids) or saved.contents != _digest(ids[:count], contents):
            return "the bank's clips have changed"
        if self._tied and count == len(ids) and saved.fingerprint != self.bank.fingerprint:
            return "the bank's content has changed"
        first = saved.vectors.rows(np.zeros(min(count, 1), np.int64))
        if count and first[0] @ self._embed(contents[:1]).numpy()[0] < 1 - SAME_VECTOR:
            return "the first clip's vector differs from the stored one, so the model has changed"
        return None

    def _save(self, ids: list[str], contents: list[str]) -> None:
        if not self._writable:
            return
        digest = _digest(ids[: len(self.vectors)], contents)
        try:
            write_saved(self.folder, SavedIndex(self.settings, self.bank.fingerprint, digest, self.vectors))
        except OSError as error:
            self._writable = False
            log.warning("The index stays in memory: %s cannot be written (%s).", self.folder, error)


def _digest(ids: list[str], contents: list[str]) -> str:
    """Digest of the pairs of id and content; contents beyond the ids are ignored."""
    digest = hashlib.sha256()
    for pair in zip(ids, contents, strict=False):
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()
